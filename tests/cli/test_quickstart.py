"""quickstart, from the first line to the saved checkpoint, on a corpus and model small enough for a second."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import ghost_native.data
from ghost_native import Ghost, GhostConfig
from ghost_native.cli import main, quickstart, run_training
from ghost_native.cli.display import Display
from ghost_native.data import Corpus, Document
from ghost_native.data.corpora import Skipped


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"def guess(byte):\n    return byte + 1  # Onhava\n"
    train = [Document(f"t{i}", text * 20 + bytes((65 + i,))) for i in range(4)]
    corpus = Corpus(train, [Document("h", text * 8 + b"held out")], [Skipped("s", "empty")])
    monkeypatch.setattr(ghost_native.data, "python_corpus", lambda: corpus)
    monkeypatch.setattr(GhostConfig, "preset", lambda name, **changes: GhostConfig(dim=32, num_layers=2, **changes))
    monkeypatch.setattr(quickstart, "BATCH", 2)
    monkeypatch.setattr(quickstart, "SEQLEN", 32)


def test_quickstart_tells_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    code = main(["quickstart", "--seconds", "1.5", "--out", str(path), "--fact", "home of Kinbote=New Wye"])
    out, err = capsys.readouterr()
    assert code == 0, err
    for part in (
        "Held-out text: 384 bytes of 1 files", "Ghost ", "gzip -9", "xz -9e", "training ",
        "mean depth    2.00 of 2 layers", "work skipped  0.0%", "Pieces its tokenizer found",
        "home of Kinbote = New Wye ('New Wye' occurs 0 times",
        "Q: home of Kinbote? A:", "answer before", "answer after", "A sample\ndef ", "times smaller than float32",
        "bits each", f"ghost-native generate {path}", "ghost-native inspect", "ghost-native eval", "ghost-native train",
    ):  # fmt: skip
        assert part in out, part
    for part in (
        "BLAS: ",
        "4 documents",
        "skipped 1 (empty)",
        "M parameters",
        "learning to use facts",
        "learning text",
    ):
        assert part in err, part
    assert "\x1b" not in out + err
    model = Ghost.load(path)
    assert model.is_packed and model.facts() == {b"home of Kinbote": b"New Wye"}


def test_a_fact_of_the_training_text_is_owned_up_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["quickstart", "--seconds", "0.3", "--out", str(tmp_path / "q")]) == 0
    assert "('Onhava' occurs 80 times in the training text)" in capsys.readouterr().out


def test_impossible_facts_and_places_are_refused_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_training, "run_training", lambda *_: pytest.fail("trained"))
    assert main(["quickstart", "--fact", "k=" + "v" * 80]) == 1
    assert "error: the value has 80 bytes, at most 63" in capsys.readouterr().err
    assert main(["quickstart", "--out", str(tmp_path / "a" / "b")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_ctrl_c_saves(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = iter([signal.SIGINT])
    monkeypatch.setattr(Display, "stepped", lambda *_: [signal.raise_signal(number) for number in once])
    path = tmp_path / "q"
    assert main(["quickstart", "--seconds", "30", "--out", str(path)]) == 130
    assert f"saved to {path}" in capsys.readouterr().err and not Ghost.load(path).is_packed

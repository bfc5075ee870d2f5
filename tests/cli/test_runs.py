"""verify, estimate and compare: what they say, and what they refuse."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ghost_native.cli import compare, main
from ghost_native.models import Transformer, TransformerConfig
from ghost_native.train.folder_lock import FolderLock
from ghost_native.train.logs import read_metrics
from tests.cli.line_corpus import write_corpus

TINY = ("--preset", "phone", "--dim", "32", "--layers", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", 8)


def test_verify_says_what_is_ready(folder, tmp_path, capsys):
    assert main(["verify", str(folder), *TINY, "--save-dir", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "ready to train" in out and "\u2717" not in out
    for check in ("configuration", "model", "teacher", "tokenizer", "data", "folder", "disk", "memory", "logs"):
        assert f"\u2713 {check} " in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        (["--set", "train.checkpoint_path=nowhere"], "model", "no such checkpoint: nowhere"),
        (["--set", "train.teacher_path=nowhere"], "teacher", "no such checkpoint: nowhere"),
        (["--set", "train.teacher_path=other.safetensors"], "teacher", "given 300 of them, allowed: 256"),
        (["--set", "data.paths=[nowhere]"], "data", "no such file or folder: nowhere"),
        (["--seqlen", "10000"], "data", "give more text or a smaller seqlen"),
        (["--batch", "1000000000"], "memory", "lower train.micro_batch_size"),
        (["--set", "train.ckpt_keep=1000000000000"], "disk", "lower train.ckpt_keep"),
    ],
)
def test_verify_names_what_fails(folder, changes, check, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Transformer(TransformerConfig(vocab_size=300, n_layers=1, d_model=16, n_heads=2)).save("other.safetensors")
    assert main(["verify", str(folder), *TINY, *changes]) == 1
    done = capsys.readouterr()
    assert message in " ".join((done.out + done.err).split())
    if check:
        assert f"\u2717 {check} " in done.out
        assert f"{'2 checks' if check == 'memory' else '1 check'} failed" in done.out, "data that do not fit are left"


@pytest.mark.parametrize("verb", ["verify", "train"])
def test_a_key_of_routing_without_routing_is_remarked_on(verb, folder, tmp_path, capsys):
    command = [verb, str(folder), *TINY, "--save-dir", str(tmp_path / "run"), "--set", "model.threshold=0.3"]
    command += ["--dry-run"] if verb == "train" else []
    remark = "model.threshold has no effect while model.routing is false"
    assert main(command) == 0 and capsys.readouterr().err.count(remark) == 1
    assert main([*command, "--set", "model.routing=true"]) == 0 and remark not in capsys.readouterr().err


def test_verify_names_who_has_the_folder(folder, tmp_path, capsys):
    command = ["verify", str(folder), *TINY, "--save-dir", str(tmp_path / "run")]
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"\u2717 folder {tmp_path / 'run'} is being trained into by process {os.getpid()} on" in said
    lock.release()
    assert main(command) == 0, "the file of a lock is no lock"
    lock = FolderLock(tmp_path / "logs")
    lock.acquire()
    assert main([*command, "--set", f"train.log_path={tmp_path / 'logs'}"]) == 1
    assert "or give another train.log_path" in " ".join(capsys.readouterr().out.split())
    lock.release()


def test_estimate(capsys):
    assert main(["estimate", "--preset", "production"]) == 0
    out = capsys.readouterr().out
    assert "parameters  6,532,961" in out and "GB at most" in out and "ms a step" in out
    assert main(["estimate", "--preset", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == pytest.approx(30.5e6, rel=0.01)
    assert found["peak_bytes"] == pytest.approx(sum(found["memory"].values()))


def test_compare_trains_both_and_reports(folder, tmp_path, capsys, monkeypatch):
    small = {"data.seq_len": 16, "train.micro_batch_size": 2, "train.eval_interval": 5, "train.log_interval": 1}
    ghost = {**compare.PAIR["ghost"], **small, "model.dim": 32, "model.num_layers": 1}
    transformer = {**compare.PAIR["transformer"], **small, "model.d_model": 32, "model.n_layers": 1, "model.n_heads": 2}
    monkeypatch.setattr(compare, "PAIR", {"ghost": ghost, "transformer": transformer})
    out = tmp_path / "c"
    assert main(["compare", str(folder), "--seconds", "0.5", "--out", str(out)]) == 0
    report = (out / "comparison.md").read_text()
    assert "| ghost |" in report and "| transformer |" in report and "comparison.png" in report
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert all(read_metrics(out / name) for name in ("ghost", "transformer"))
    assert "bits per byte" in capsys.readouterr().out
    assert main(["compare", str(folder), "--seconds", "0.5", "--out", str(out)]) == 1
    assert re.search(r"holds a run of \d+ steps already; give another --out", capsys.readouterr().err)


def test_a_step_gone_back_to_with_nothing_left_to_train(folder, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", str(folder), *TINY, "--seqlen", "16", "--batch", "2", "--save-dir", str(run)]
    out = ["--out", str(tmp_path / "m.safetensors")]
    assert main([*arguments, "--steps", "4", "--set", "train.ckpt_interval=2"]) == 0
    assert main([*arguments, "--steps", "2", "--resume", "2", *out]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "nothing is left to train after step 2" in error and "the model of this step is" in error
    assert not (tmp_path / "m.safetensors").exists() and (run / "model.safetensors").exists()
    assert {path.name for path in run.glob("step-*")} == {"step-00000002", "step-00000004"}


def test_train_says_what_a_folder_holds(folder, tmp_path, capsys):
    def refused(*more: str) -> str:
        assert main(["train", str(folder), *TINY, "--save-dir", str(tmp_path / "run"), *more]) == 1
        return " ".join(capsys.readouterr().err.split())

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x")
    for more in ((), ("--resume", "auto")):
        wanted = "holds a finished model (model.safetensors): --overwrite starts over, --save-dir FOLDER keeps both"
        assert wanted in refused(*more)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "holds an exported model (config.json): --save-dir FOLDER trains elsewhere" in refused("--overwrite")
    assert main(["verify", str(folder), *TINY, "--save-dir", str(tmp_path / "run")]) == 1
    assert "an exported model (config.json), which no run replaces" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.jsonl").write_text("")
    logs = ("--save-dir", str(tmp_path / "new"), "--set", f"train.log_path={tmp_path / 'logs'}")
    assert "holds the metrics of a run: --overwrite starts over, --set train.log_path=FOLDER keeps both" in refused(
        *logs
    )


def test_compare_wants_two_that_read_the_same(folder, tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yaml").write_text(f"model: {{dim: 32}}\ndata: {{paths: [{name}], seq_len: {16 * seed}}}\n")
    assert main(["compare", str(tmp_path / "a.yaml")]) == 2
    assert "give two or none" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--out", str(tmp_path / "o")]) == 1
    assert "the configurations read different data" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.yaml"), str(tmp_path / "a.yaml")]) == 2
    assert "names of their files, which are alike" in capsys.readouterr().err


def test_the_pair_is_of_one_size():
    from ghost_native.train.estimate import estimate
    from ghost_native.train.run_config import RunConfig

    sizes = [estimate(RunConfig.load(None, values=values), peak_flops=1e12).parameters
             for values in compare.PAIR.values()]  # fmt: skip
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)

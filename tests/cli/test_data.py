"""`ghost-native data`: what its commands print and write, and their errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghost_native.cli import main
from ghost_native.cli.data import COMMANDS
from ghost_native.data import ByteTokenizer, Shards, decode, load_tokenizer
from ghost_native.models.atomic import TEMPORARY
from tests.data.examples import tokenizer_text, write_lines

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """main(["data", arguments]) -> exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["data", *(str(argument) for argument in arguments)])
        done = capfd.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, JSON lines and a copy."""
    folder = tmp_path_factory.mktemp("notes")
    (folder / "a.txt").write_text("first\nnote")
    (folder / "b.txt").write_text("the second note is longer")
    (folder / "copy.txt").write_text("first\nnote")
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = tokenizer_text().splitlines()
    rows = [{"text": "\n".join(lines[i : i + 6])} for i in range(0, len(lines), 6)]
    return write_lines(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


def assert_fails(result: tuple[int, str, str], message: str, code: int = 1) -> None:
    errors = [line for line in result[2].splitlines() if line.startswith("error: ")]
    assert result[0] == code and len(errors) == 1 and message in errors[0], result
    assert "Traceback" not in result[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert code == 0 and err == "" and f"usage: ghost-native data {command}" in out
    assert f"examples:\n  ghost-native data {command}" in out
    assert all(len(line) <= 100 for line in out.split("examples:")[0].splitlines())
    assert f"  {command} " in run("--help")[1]


def test_unknown_commands_and_arguments(run: Run) -> None:
    assert_fails(run("shrad"), "unknown data command 'shrad' (did you mean 'shard'?); commands are stream, shard", 2)
    assert_fails(run("stats", "x", "--limt", "3"), "unknown argument '--limt' (did you mean '--limit'?); ghost-nat", 2)
    assert_fails(run("stats"), "the following arguments are required: DATA", 2)
    assert_fails(run("stats", "x.txt", "--limit", "0"), "given 0, allowed is a whole number, at least 1", 2)
    assert_fails(run("stats", "no-such.txt"), "no such file or folder: no-such.txt")
    assert_fails(run(), "the following arguments are required: COMMAND", 2)


# -- stats ------------------------------------------------------------------------------------------------------------


def test_stats(run: Run, notes: Path) -> None:
    code, out, _ = run("stats", notes)
    assert code == 0
    assert "documents   3\n" in out and "text        45 B\n" in out
    assert "lengths     10 to 25 bytes, median 10, mean 15\n" in out
    assert "duplicates  1, 22.2% of all bytes\n" in out
    assert out.endswith("Documents by length in bytes\n"
                        f"  below 16  2  {'█' * 40}\n  below 32  1  {'█' * 20}\n")  # fmt: skip


def test_stats_as_json_with_tokens(run: Run, notes: Path, tmp_path: Path) -> None:
    code, out, _ = run("stats", notes, "--tokenizer", "bytes", "--json")
    assert code == 0 and json.loads(out) == {
        "documents": 3, "bytes": 45, "tokens": 45, "unit": "token", "shortest": 10, "median": 10.0, "mean": 15.0,
        "longest": 25, "duplicates": 1, "duplicate_share": 10 / 45,
        "histogram": [{"below": 16, "documents": 2}, {"below": 32, "documents": 1}],
    }  # fmt: skip
    rows = [{"prompt": "ab", "response": "c"}, {"messages": [{"role": "user", "content": "abcd"}]}]
    chats = write_lines(tmp_path / "chats.jsonl", rows)
    assert json.loads(run("stats", chats, "--stage", "sft", "--json")[1])["bytes"] == 8  # "ab\nc" and "abcd"
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "cc", "rejected": "r"}])
    assert json.loads(run("stats", pairs, "--stage", "preference", "--json")[1])["bytes"] == 6
    found = json.loads(run("stats", notes / "a.txt", chats, "--limit", 1, "--json")[1])
    assert found["documents"] == 1
    assert_fails(run("stats", chats), "chats.jsonl:1 has no field 'text', it has 'prompt', 'response'; set text_field")
    assert_fails(run("stats", notes / "empty.txt"), "there are no documents in what was named")


# -- shard ------------------------------------------------------------------------------------------------------------


def test_shard_and_what_can_be_done_with_it(run: Run, notes: Path, corpus: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "shards"
    code, out, _ = run("shard", notes, corpus, "--out", out_dir, "--dedup", "--shard-tokens", 5000)
    assert code == 0 and "left out   1 duplicate\n" in out
    assert "of uint16" in out and "tokens     " in out and "bytes per token" in out
    shards = Shards(out_dir, ByteTokenizer())
    shards.verify()
    texts = [decode(ByteTokenizer(), ids) for ids in shards]
    rows = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert texts == ["first\nnote", "the second note is longer", *rows]
    assert len(shards.manifest.tokens) > 2
    found = json.loads(run("stats", out_dir, "--json")[1])
    assert found["documents"] == len(texts) and found["tokens"] == shards.num_tokens
    assert found["bytes"] == sum(map(len, texts)) and found["unit"] == "token"
    code, out, _ = run("stream", out_dir, "--seqlen", 50, "--samples", 2)
    assert code == 0 and out.count("51 tokens, all count") == 2
    assert_fails(
        run("stream", out_dir, "--tokenizer", "ghost-bytes"), "was made with another tokenizer (bytes, 262 ids)"
    )
    assert_fails(run("shard", notes, "--out", out_dir), "exists; remove it or choose another name")
    file = out_dir / "tokens-00000.bin"
    file.write_bytes(b"\xff\xff" + file.read_bytes()[2:])
    assert_fails(run("stats", out_dir), "tokens-00000.bin is damaged between bytes 0 and")


def test_shard_errors_leave_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "data.jsonl"
    lines.write_text('{"text": "fine"}\n{"text": \n')
    out_dir = tmp_path / "shards"
    assert_fails(run("shard", lines, "--out", out_dir), "data.jsonl:2 is not JSON: Expecting value at column 1")
    assert_fails(run("shard", lines), "the following arguments are required: --out", 2)
    assert_fails(run("shard", lines, "--tokenizer", "x.model", "--out", out_dir), "no such tokenizer: x.model; allowed")
    lines.write_text("\n")
    assert_fails(run("shard", lines, "--out", out_dir), "there are no documents to write")

    from ghost_native.data import ShardWriter

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    lines.write_text('{"text": "fine"}\n')
    monkeypatch.setattr(ShardWriter, "add", full)
    assert_fails(run("shard", lines, "--out", out_dir), "No space left on device")
    monkeypatch.setattr(ShardWriter, "add", stop)
    code, _, err = run("shard", lines, "--out", out_dir)
    assert code == 130 and err.endswith("interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """For real: a signal while a large file is sharded."""
    command = [sys.executable, "-m", "ghost_native", "data", "shard", str(tmp_path / "big.txt"), "--out"]
    (tmp_path / "big.txt").write_bytes(b"some words on a line\n" * 4_000_000)
    # Jobs that a script puts in the background, as this test may be part of, ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while not any(path.name.startswith(TEMPORARY) for path in tmp_path.iterdir()):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("interrupted\n"), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.txt"]


# -- tokenizer --------------------------------------------------------------------------------------------------------


def test_tokenizer_trains_shows_and_is_used(run: Run, corpus: Path, notes: Path, tmp_path: Path) -> None:
    model = tmp_path / "t.model"
    code, out, _ = run("tokenizer", corpus, "--vocab-size", 400, "--out", model)
    assert code == 0 and "sentencepiece, 400 tokens" in out and f"saved     {model}" in out
    assert "specials   bos 1, eos 2, pad 3, system 4, user 5, assistant 6" in out
    assert "bytes per token, on 17." in out and "│" in out
    first = model.read_bytes()
    assert run("tokenizer", corpus, "--vocab-size", 400, "--out", model)[0] == 0 and model.read_bytes() == first
    code, out, _ = run("tokenizer", "--model", model, notes)
    assert code == 0 and "bytes per token, on 45 B of what was named" in out and "saved" not in out
    assert "fertility" not in run("tokenizer", "--model", model)[1]
    assert run("shard", corpus, "--tokenizer", model, "--out", tmp_path / "shards", "--num-workers", 3)[0] == 0
    tokenizer = load_tokenizer(model)
    shards = Shards(tmp_path / "shards", tokenizer)
    rows = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert [decode(tokenizer, ids) for ids in shards] == rows


def test_tokenizer_errors(run: Run, corpus: Path, notes: Path, tmp_path: Path) -> None:
    model = tmp_path / "t.model"
    assert_fails(run("tokenizer", corpus), "give --out FILE to train a tokenizer, or --model FILE to show one", 2)
    assert_fails(run("tokenizer", corpus, "--out", model, "--model", model), "give --out FILE", 2)
    assert_fails(run("tokenizer", "--out", model), "name the files to learn from", 2)
    assert_fails(run("tokenizer", corpus, "--vocab-size", 99999, "--out", model), "vocab_size is 99999, at most ")
    assert_fails(run("tokenizer", notes / "empty.txt", "--out", model), "there is no text to learn from")
    assert_fails(run("tokenizer", corpus, "--out", tmp_path / "no" / "t.model"), "cannot save to")
    assert_fails(run("tokenizer", "--model", corpus), "corpus.jsonl is not a SentencePiece model; train one with")
    assert list(tmp_path.iterdir()) == []


# -- stream -----------------------------------------------------------------------------------------------------------


def test_stream_of_text(run: Run, notes: Path) -> None:
    code, out, _ = run("stream", notes, "--seqlen", 100, "--samples", 1)
    assert code == 0 and "sample 1: 101 tokens, all count" in out
    assert out.count("first\nnote<|eos|>") >= 3 and "the second note is longer<|eos|>" in out
    assert run("stream", notes, "--seqlen", 100, "--samples", 1)[1] == out
    assert run("stream", notes, "--seqlen", 9, "--samples", 2, "--ids")[1].count(" 110 ") >= 1  # n


def test_stream_of_chats_marks_what_counts(run: Run, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "q\x1b[2J", "response": "yes"}, {"prompt": "long" * 30, "response": "x"}]
    path = write_lines(tmp_path / "chats.jsonl", rows)
    code, out, err = run("stream", path, "--stage", "sft", "--seqlen", 20, "--samples", 1, "--no-packing")
    assert code == 0 and "sample 1: 12 tokens, 8 padding, 4 count" in out
    assert "<|bos|><|user|>q␛[2J<|assistant|>⟦yes<|eos|>⟧" in out
    assert "left out" not in err or "left out 1 row: answer cut off" in err
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "good", "rejected": "bad"}])
    code, out, _ = run("stream", pairs, "--stage", "preference", "--seqlen", 20, "--samples", 1)
    assert code == 0 and "sample 1, chosen: 9 tokens, 11 padding, 5 count" in out and "⟦good<|eos|>⟧" in out
    assert "sample 1, rejected: 8 tokens" in out and "⟦bad<|eos|>⟧" in out
    assert_fails(run("stream", path, "--stage", "dpo"), "invalid choice: 'dpo'", 2)
    assert_fails(run("stream", path), "chats.jsonl:", 1)


def test_stream_of_a_table(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("body,n\nalpha,1\nbeta,2\n")
    cache = ("--cache-dir", tmp_path / "cache")
    code, out, _ = run("stream", table, "--text-field", "body", "--seqlen", 30, "--samples", 1, *cache)
    assert code == 0 and "alpha<|eos|>" in out and "beta<|eos|>" in out
    assert_fails(run("stream", table, *cache), "has no field 'text', it has 'body', 'n'; set text_field")

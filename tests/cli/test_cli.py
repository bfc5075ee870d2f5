"""The commands: what they print, save and return, from one tiny model trained for two steps."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ghost_native import Ghost
from ghost_native.cli import main
from ghost_native.cli.app import VERBS
from ghost_native.cli.display import Display
from ghost_native.data import baselines, read_documents
from ghost_native.generate import generate
from ghost_native.models import Transformer, TransformerConfig
from ghost_native.train import evaluate
from ghost_native.train.folder_lock import FolderLock
from tests.cli.line_corpus import LINE, write_corpus

Run = Callable[..., tuple[int, str, str]]
TINY = ("--preset", "phone", "--dim", "32", "--layers", "2", "--steps", "2")


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """main(arguments) -> exit code, stdout, stderr (Latin-1, so that any byte passes)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        done = capfdbinary.readouterr()
        return code, done.out.decode("latin-1"), done.err.decode("latin-1")

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("cli") / "corpus", 8)


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    assert main(["train", str(folder), *TINY, "--out", str(path)]) == 0
    return path


def assert_one_line(err: str, message: str) -> None:
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], err
    assert "Traceback" not in err


# -- help and errors --------------------------------------------------------------------------------------------------


def test_top_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0 and all(f"  {verb} " in out for verb in VERBS) and "start here" in out
    assert run("help", "train")[1] == run("train", "--help")[1]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_command_teaches_by_example(run: Run, verb: str) -> None:
    code, out, err = run(verb, "--help")
    assert code == 0 and err == ""
    assert f"usage: ghost-native {verb}" in out and f"examples:\n  ghost-native {verb}" in out
    assert all(len(line) <= 100 for line in out.split("examples:")[0].splitlines())


def test_version_and_no_command(run: Run) -> None:
    from ghost_native import __version__

    assert run("--version")[:2] == (0, f"ghost-native {__version__}\n")
    code, out, err = run()
    assert code == 2 and out == "" and "start here" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian' (did you mean 'train'?); commands are quickstart, train"),
        (
            ["train", "x", "--sede", "1"],
            "unknown argument '--sede' (did you mean '--seed'?); ghost-native train --help",
        ),
        (["train", "a.yaml", "b.yaml"], "one configuration file at a time, given a.yaml and b.yaml"),
        (["train", "x", "--init", "y", "--dim", "32"], "--init brings its own size"),
        (["train", "x", "--pack"], "--pack needs --out FILE"),
        (["train", "x", "--steps", "0"], "argument --steps: given 0, allowed is a whole number, at least 1"),
        (["train", "x", "--steps", "3", "--seconds", "2"], "argument --seconds: not allowed with argument --steps"),
        (["train", "x", "--learning-rate", "much"], "given 'much', allowed is a number, more than 0"),
        (["train", "x", "--facts", "1"], "given 1, allowed is a number, at least 0 and at most 0.9"),
        (["generate", "x", "--top-p", "0"], "given 0, allowed is a number, more than 0 and at most 1"),
        (["generate", "x", "--temperature", "nan"], "given nan, allowed is a number, at least 0"),
        (["generate", "x", "--fact", "novalue"], "given 'novalue', allowed is KEY=VALUE"),
        (["generate", "x", "a", "--prompt-file", "b"], "given both PROMPT and --prompt-file"),
        (["inspect", "x"], "given neither TEXT and --file, allowed is one"),
        (["quickstart", "--seconds", "-1"], "given -1, allowed is a number, more than 0"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert_one_line(err, message)


def test_words_may_stand_behind_options(run: Run, checkpoint: Path, folder: Path) -> None:
    before = run("generate", checkpoint, "for ", "--max-bytes", 9, "--seed", 1)
    assert before[0] == 0 and run("generate", checkpoint, "--max-bytes", 9, "--seed", 1, "for ")[:2] == before[:2]
    assert run("estimate", "--preset", "phone", folder)[0] == 0
    assert_one_line(run("generate", checkpoint, "--seed", 1, "a", "b")[2], "unknown argument 'b'")


def test_failures(run: Run, tmp_path: Path, checkpoint: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(checkpoint.read_bytes()[:1000])
    (tmp_path / "none").write_bytes(b"")
    for arguments, message in (
        (["train", tmp_path / "missing"], "no such file or folder"),
        (["train", tmp_path / "empty"], "holds no files"),
        (["train", folder, "--out", tmp_path], "it is a folder; name a file"),
        (["train", folder, "--out", tmp_path / "a" / "b"], "there is no folder"),
        (["train", folder, *TINY, "--dim", "33", "--out", tmp_path / "x"], "dim is out of range, given 33"),
        (["train", folder, *TINY, "--seqlen", "100000"], "at least seqlen + 1 = 100001 are needed; give more text"),
        (["train", folder, *TINY, "--heldout", "0.7"], "data.heldout is out of range, given 0.7, allowed: 0 to 0.5"),
        (["train", folder, *TINY, "--heldout", folder / "part1.txt"], "also in data.paths; keep them apart"),
        (["train", folder, "--preset", "huge"], "preset is unknown, given 'huge', allowed: quick_test"),
        (["train", folder, "--set", "train.warmup=3"], "Did you mean 'train.warmup_steps'?"),
        (["train"], "no data is named"),
        (["eval", tmp_path / "missing.safetensors", folder], "no such checkpoint"),
        (["eval", folder, folder], "is a folder without a model"),
        (["eval", checkpoint, tmp_path / "none"], "are empty or hidden"),
        (["generate", tmp_path / "broken.safetensors"], "broken.safetensors"),
        (["generate", checkpoint, "x", "--fact", "k=" + "v" * 99], "the value has 99 bytes, at most 63"),
        (["generate", checkpoint, "--prompt-file", tmp_path / "no"], "No such file or directory"),
        (["inspect", checkpoint, "--file", tmp_path / "none"], "there is no text to inspect"),
        (["info", tmp_path / "none"], "is not a whole safetensors file"),
    ):
        code, _, err = run(*arguments)
        assert code == 1, (arguments, err)
        assert_one_line(err, message)


def test_unexpected_errors_are_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    def fail(path: Path) -> Ghost:
        raise RuntimeError("boom")

    monkeypatch.setattr(Ghost, "load", fail)
    code, _, err = run("info", checkpoint)
    assert code == 1
    assert_one_line(err, "unexpected RuntimeError: boom; GHOST_NATIVE_DEBUG=1 shows where")
    monkeypatch.setenv("GHOST_NATIVE_DEBUG", "1")
    code, _, err = run("info", checkpoint)
    assert code == 1 and "Traceback" in err and "def fail" not in err and "boom" in err


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_reports_and_saves(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    code, out, err = run("train", folder, *TINY, "--out", path)
    assert code == 0 and Ghost.load(path).config.dim == 32
    assert "Ghost " in out and "gzip -9" in out and "xz -9e" in out and str(path) in out
    assert "100%  learning text  step 2" in err and "held-out " in err and "7 documents" in err
    assert (tmp_path / "m-run" / "step-00000002").is_dir() and (tmp_path / "m-run" / "config.yaml").is_file()
    assert "\x1b" not in out + err, "plain when it is not a terminal"


def test_the_seed_decides_everything(run: Run, folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", folder, *TINY, "--seed", seed, "--out", tmp_path / name)[0] == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_train_options(run: Run, folder: Path, tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "m.safetensors"
    other = tmp_path / "other.txt"
    other.write_text(LINE * 3)
    code, out, err = run("train", folder, *TINY, "--heldout", other, "--pack", "--out", path)
    assert code == 0 and f"{len(LINE) * 3} bytes, 1 document" in out and "8 documents" in err
    assert Ghost.load(path).is_packed
    code, _, err = run("train", folder, "--init", path, "--steps", 1)
    assert code == 1
    assert_one_line(err, "packed to 2 bits, which cannot be trained")

    code, out, err = run("train", folder, *TINY, "--heldout", "0", "--facts", "0.5", "--out", tmp_path / "facts")
    assert code == 0 and "gzip" not in out and "learning to use facts" in err

    arguments = ("--init", checkpoint, "--seconds", "0.4", "--batch", 2, "--seqlen", 16, "--learning-rate", "1e-9")
    path = tmp_path / "slow"
    code, _, err = run("train", folder, *arguments, "--out", path)
    assert code == 0 and "of 2 x 16 bytes" in err
    before, after = (evaluate(Ghost.load(p), read_documents(other)[0]).bpb for p in (checkpoint, path))
    assert abs(before - after) < 1e-3, "so small a rate leaves the model that --init named"


def test_ctrl_c_saves_and_says_where(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        once = iter([signal.SIGINT])
        patch.setattr(Display, "stepped", lambda *_: [signal.raise_signal(number) for number in once])
        code, _, err = run("train", folder, *TINY[:-1], "50", "--out", path)
    assert code == 130 and "interrupted after 2 steps; saved" in err and "--resume auto" in err
    assert signal.getsignal(signal.SIGINT) is before and Ghost.load(path).config.dim == 32
    code, _, err = run("train", folder, *TINY[:-1], "6", "--out", path, "--resume", "auto")
    assert code == 0 and "going on after step 2" in err and "step 6" in err


def test_a_second_ctrl_c_ends_at_once(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Display, "stepped", twice)
    code, _, err = run("train", folder, *TINY, "--out", tmp_path / "m")
    assert code == 130 and err.endswith("interrupted\n") and not (tmp_path / "m").exists()


def test_a_finished_run_is_not_written_over(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", folder, *TINY, "--save-dir", tmp_path / "r")
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments)
    assert code == 1
    assert_one_line(err, "holds a run of 2 steps: --resume goes on with it, --overwrite starts over")
    assert run(*arguments, "--resume", "auto")[0] == 0
    assert run(*arguments, "--overwrite")[0] == 0
    assert "total_steps: 2" in (tmp_path / "r" / "config.yaml").read_text()
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Display, "started", lambda *_: signal.raise_signal(signal.SIGINT))
        code, _, err = run(*arguments, "--overwrite", "--out", tmp_path / "m")
    assert code == 130 and f"interrupted before the first step; {tmp_path / 'r'} is as it was" in err
    assert sorted(tmp_path.rglob("*")) == before
    lock = FolderLock(tmp_path / "r")
    lock.acquire()
    code, _, err = run(*arguments, "--overwrite")
    assert code == 1
    assert_one_line(err, f"is being trained into by process {os.getpid()} on")
    lock.release()
    assert run(*arguments, "--resume", "7")[0] == 1
    assert run(*arguments, "--resume", "newest")[0] == 2


def test_a_configuration_file_and_what_stands_above_it(run: Run, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: {type: ghost, dim: 32, num_layers: 2}\n"
        f"data: {{paths: [{json.dumps(str(folder))}], seq_len: 16}}\n"
        f"train: {{total_steps: 3, micro_batch_size: 2, save_dir: {json.dumps(str(tmp_path / 'r'))}}}\n"
    )
    code, out, _ = run("train", config, "--set", "train.lr=1e-3", "--layers", "1", "--print-config")
    assert code == 0 and "lr: 0.001" in out and "num_layers: 1" in out and "seq_len: 16" in out
    code, out, err = run("train", config, "--dry-run")
    assert code == 0 and "nothing was trained" in out and "3 steps of 2 x 16 bytes" in err
    assert not (tmp_path / "r").exists()
    assert run("train", config)[0] == 0
    assert Ghost.load(tmp_path / "r" / "model.safetensors").config.num_layers == 2
    code, out, _ = run("train", tmp_path / "r" / "config.yaml", "--print-config")
    assert code == 0 and out == (tmp_path / "r" / "config.yaml").read_text()


def test_a_transformer_trains_by_the_same_command(run: Run, folder: Path, tmp_path: Path) -> None:
    size = [f"--set=model.{name}={value}" for name, value in
            {"n_layers": 2, "d_model": 32, "n_heads": 2, "vocab_size": 256}.items()]  # fmt: skip
    path = tmp_path / "t.safetensors"
    code, out, err = run("train", folder, "--preset", "tiny", *size, "--steps", 2, "--batch", 2, "--seqlen", 16,
                         "--out", path)  # fmt: skip
    assert code == 0 and "transformer with" in err and "transformer" in out
    assert Transformer.load(path).config.d_model == 32
    code, out, _ = run("eval", path, folder)
    assert code == 0 and "Transformer" in out and "of 2 layers" in out
    code, out, _ = run("generate", path, "the ", "--max-bytes", 20, "--seed", 1)
    assert code == 0 and len(out) == 20
    code, _, err = run("generate", path, "x", "--fact", "a=b")
    assert code == 1
    assert_one_line(err, "a transformer has no memory for facts")
    Transformer(TransformerConfig(vocab_size=300, n_layers=1, d_model=32, n_heads=2)).save(
        tmp_path / "tokens.safetensors"
    )
    code, _, err = run("eval", tmp_path / "tokens.safetensors", folder)
    assert code == 1
    assert_one_line(err, "is a transformer of 300 tokens without the tokenizer")


def test_ctrl_c_from_outside(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    command = [sys.executable, "-m", "ghost_native", "train", str(folder), *TINY[:-2], "--seconds", "60"]
    child = subprocess.Popen([*command, "--out", str(path)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    lines = []
    for line in child.stderr:
        lines.append(line)
        if "learning text" in line:
            child.send_signal(signal.SIGINT)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait(30) == 130, "".join(lines) + rest
    assert "saved" in rest and Ghost.load(path).config.dim == 32


# -- eval -------------------------------------------------------------------------------------------------------------


def test_eval_json(run: Run, checkpoint: Path, folder: Path) -> None:
    code, out, _ = run("eval", checkpoint, folder, "--json")
    result = json.loads(out)
    documents, _ = read_documents(folder)
    found, rivals = evaluate(Ghost.load(checkpoint), documents), baselines(documents)
    assert code == 0 and result["bytes"] == found.num_bytes and result["documents"] == 8 and result["skipped"] == 0
    assert result["bpb"] == pytest.approx(found.bpb, abs=1e-6)
    assert (result["gzip_bpb"], result["xz_bpb"]) == (rivals["gzip"], rivals["xz"])
    assert result["bytes_per_second"] > 0 and result["mean_depth"] == 2 and result["skipped_share"] == 0


def test_eval_table_and_what_it_skipped(run: Run, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    code, out, err = run("eval", checkpoint, folder, tmp_path / "empty", "--chunk", 100)
    assert code == 0 and "8 documents" in out and "bits per byte" in out and "0.0% of the work skipped" in out
    assert "skipped empty: empty" in err and "BLAS: " in err


# -- generate ---------------------------------------------------------------------------------------------------------


def test_generate_into_a_pipe_gives_the_bytes(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    expected = bytes(generate(Ghost.load(checkpoint), "for ", max_bytes=40, temperature=1.5, top_p=0.9, seed=3))
    options = ("--max-bytes", 40, "--temperature", 1.5, "--top-p", 0.9, "--seed", 3)
    code, out, err = run("generate", checkpoint, "for ", *options)
    assert code == 0 and out.encode("latin-1") == expected and err == ""
    (tmp_path / "prompt").write_bytes(b"for ")
    assert run("generate", checkpoint, "--prompt-file", tmp_path / "prompt", *options)[1] == out
    assert run("generate", checkpoint, "for ", *options[:-1], 4)[1] != out
    assert run("generate", checkpoint, *options)[1] != out


def test_generate_reads_stdin(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--max-bytes", 20, "--seed", 1)
    expected = run("generate", checkpoint, "\u00e9!", *options)[1]
    for dash in (["-"], ["--prompt-file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\u00e9!".encode())))
        assert run("generate", checkpoint, *dash, *options)[1] == expected


def test_generate_stops(run: Run, checkpoint: Path) -> None:
    options = ("--temperature", 3, "--seed", 1, "--max-bytes", 60)
    whole = run("generate", checkpoint, "x", *options)[1].encode("latin-1")
    stop = whole[20:22]
    assert len(whole) == 60
    text = "".join(f"\\x{byte:02x}" for byte in stop)
    assert run("generate", checkpoint, "x", *options, "--stop", text)[1].encode("latin-1") == whole.split(stop)[0]


def test_generate_reads_facts(run: Run, checkpoint: Path) -> None:
    plain, told = (
        run("generate", checkpoint, "Q: abc? A: ", "--max-bytes", 120, "--seed", 1, *facts)
        for facts in ((), ("--fact", "abc=xyz", "--fact", "def = 1=2"))
    )
    assert plain[0] == told[0] == 0 and plain[1] != told[1]


def test_a_reader_who_leaves_is_no_error(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "ghost_native", "generate", str(checkpoint), "x", "--max-bytes", "100000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(30) == 141 and err == b""


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_of_the_machine(run: Run) -> None:
    code, out, _ = run("info")
    assert code == 0
    for name in ("ghost_native ", "mlx ", "instruction set ", "threads ", "BLAS ", "GFLOP/s", "device "):
        assert name in out, name


@pytest.mark.parametrize("packed", [False, True])
def test_info_of_a_checkpoint(run: Run, checkpoint: Path, tmp_path: Path, packed: bool) -> None:
    model = Ghost.load(checkpoint)
    model.store_fact("capital of Zembla", b"On\x1b\nhava")
    path = tmp_path / "m.safetensors"
    (model.pack() if packed else model).save(path)
    code, out, _ = run("info", path)
    assert code == 0 and f"{model.count_params():,}" in out and ("bits each" in out) == packed
    assert "capital of Zembla" in out and "\x1b" not in out and "Facts: 1" in out and "stride" in out
    block = out.split("Parameters of each part")[1].split("Configuration")[0].strip().splitlines()
    counts = {line.rsplit(maxsplit=1)[0].strip(): int(line.rsplit(maxsplit=1)[1].replace(",", "")) for line in block}
    assert sum(counts.values()) - counts["codebooks"] == model.count_params()
    assert counts["codebooks"] == model.count_codebook_params() and counts["layers 0"] == counts["layers 1"]


# -- starting ---------------------------------------------------------------------------------------------------------


def test_help_starts_quickly_and_the_module_runs_too() -> None:
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "ghost_native", "--help"], capture_output=True, text=True, check=True
        )
        best = min(best, time.perf_counter() - begin)
    assert (
        done.stdout
        == subprocess.run(
            [sys.executable, "-c", "from ghost_native.cli import main; raise SystemExit(main(['--help']))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert best < 0.3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

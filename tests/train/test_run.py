"""A run as a whole: what it writes, how it goes on, what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.models import Ghost
from ghost_native.train import evaluate
from ghost_native.train.checkpoint import MODEL_FILE, CheckpointFolder
from ghost_native.train.logs import read_metrics
from ghost_native.train.run import Run, Watcher
from tests.train.runs import TEXT, same_weights, section, tiny, trainer, weights

ROOT = Path(__file__).resolve().parents[2]


class Diary(Watcher):
    def __init__(self) -> None:
        self.lines: list[tuple] = []

    def started(self, step):
        self.lines.append(("started", step))

    def scored(self, step, bpb, best):
        self.lines.append(("scored", step, best))

    def sampled(self, step, prompt, text):
        self.lines.append(("sampled", step, prompt))

    def saved(self, step, path):
        self.lines.append(("saved", step))

    def warned(self, message):
        self.lines.append(("warned", message))


def make(folder: Path, model=None, *, score=True, **changes) -> tuple[Run, Diary]:
    values = {"total_steps": 10, "save_dir": str(folder), "log_interval": 2, "eval_interval": 4, "ckpt_interval": 3}
    config = section(**{**values, **changes})
    model = model or tiny()
    diary = Diary()
    run = Run(
        trainer(model, config), config, watcher=diary, sample=lambda prompt: prompt + "!",
        score=(lambda: evaluate(model, TEXT).bpb) if score else None,
    )  # fmt: skip
    return run, diary


def test_a_run_writes_what_it_was_told_to(tmp_path):
    run, diary = make(tmp_path, sample_interval=5, sample_prompts=("a", "b"), ckpt_keep=2)
    summary = run.train()
    happened = [line for line in diary.lines if line[0] != "warned"]
    assert happened[0] == ("started", 0)
    assert [line[1] for line in happened if line[0] == "scored"] == [4, 8, 10]
    assert [line[1:] for line in happened if line[0] == "sampled"] == [(5, "a"), (5, "b"), (10, "a"), (10, "b")]
    assert [line[1] for line in happened if line[0] == "saved"] == [3, 4, 6, 8, 9, 10]  # 4 and 8 were the best so far
    kept = CheckpointFolder(tmp_path)
    assert kept.steps() == [9, 10] and kept.best().step == 10
    lines = read_metrics(tmp_path)
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 4, 6, 8, 10]
    wanted = {"loss", "bpb", "learning_rate", "grad_norm", "tokens_processed", "throughput", "step_time_sec",
              "elapsed_sec", "peak_memory_bytes", "process_memory_bytes"}  # fmt: skip
    assert all(wanted <= line.keys() for line in train)
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [4, 8, 10]
    written = json.loads((tmp_path / "logs" / "final_training_summary.json").read_text())
    assert written["steps"] == summary.steps == 10 and written["tokens"] == 10 * 4 * 32
    assert written["bpb"] == pytest.approx(evaluate(Ghost.load(tmp_path / MODEL_FILE), TEXT).bpb, rel=1e-5)
    assert not summary.interrupted


@pytest.mark.parametrize("at", [1, 3, 5, 8])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, at):
    whole, _ = make(tmp_path / "whole")
    whole.train()
    first, diary = make(tmp_path / "broken")
    summary = first.train(stop=lambda: first.trainer.step >= at)
    assert summary.interrupted and ("saved", summary.steps) in diary.lines
    second, _ = make(tmp_path / "broken")
    assert second.resume() == summary.steps
    second.train()
    assert same_weights(whole.trainer.model, second.trainer.model)
    seen = [
        {line["step"]: (line["loss"], line["grad_norm"], line["learning_rate"])
         for line in read_metrics(folder) if line["kind"] == "train"}
        for folder in (tmp_path / "whole", tmp_path / "broken")
    ]  # fmt: skip
    assert all(seen[0][step] == numbers for step, numbers in seen[1].items() if step in seen[0])
    assert whole.checkpoints.best() == second.checkpoints.best()


def test_going_back_further_drops_what_came_later(tmp_path):
    run, _ = make(tmp_path, ckpt_keep=9)
    run.train()
    again, _ = make(tmp_path, ckpt_keep=9)
    assert again.resume(6) == 6
    assert again.checkpoints.steps() == [3, 4, 6, 8, 9, 10], "nothing is lost before the run goes on"
    assert again.checkpoints.best_until(6).step == 4
    summary = again.train(stop=lambda: again.trainer.step >= 7)
    assert again.checkpoints.steps() == [3, 4, 6, summary.steps] and again.checkpoints.best().step == 4
    again, _ = make(tmp_path, ckpt_keep=9)
    again.resume()
    again.train()
    assert same_weights(run.trainer.model, again.trainer.model)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 5"):
        make(tmp_path)[0].resume(5)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path):
    run, _ = make(tmp_path)
    run.train()
    path = run.checkpoints.path(10) / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-10])
    again, diary = make(tmp_path)
    assert again.resume() == 9
    assert any(line[0] == "warned" and "damaged or truncated" in line[1] for line in diary.lines)


def test_checkpoints_of_another_model_are_refused(tmp_path):
    make(tmp_path)[0].train()
    with pytest.raises(ValueError, match=r"model.safetensors is of another model"):
        make(tmp_path, tiny(dim=48))[0].resume()


def test_nothing_to_resume_is_a_new_run(tmp_path):
    run, diary = make(tmp_path)
    assert run.resume() == 0
    run.train()
    assert ("started", 0) in diary.lines


def test_the_average_is_what_is_scored_and_exported(tmp_path):
    run, _ = make(tmp_path, ema_decay=0.5)
    summary = run.train()
    exported = Ghost.load(summary.model_path)
    assert not same_weights(exported, run.trainer.model)
    for name, w in weights(exported).items():
        assert np.array_equal(np.array(w), np.array(run.trainer.average.weights.get(name, w))), name
    assert summary.bpb == pytest.approx(evaluate(exported, TEXT).bpb, rel=1e-5)


def test_a_full_disk_on_the_way_is_a_warning(tmp_path, monkeypatch):
    run, diary = make(tmp_path)
    save = CheckpointFolder.save

    def full(self, model, snapshot):
        if snapshot.step == 6:
            raise OSError(28, "No space left on device")
        return save(self, model, snapshot)

    monkeypatch.setattr(CheckpointFolder, "save", full)
    run.train()
    assert run.checkpoints.steps() == [8, 9, 10]
    assert any(line[0] == "warned" and "no checkpoint at step 6" in line[1] for line in diary.lines)


@pytest.mark.parametrize("step", [6, 10], ids=["on the way", "at the end"])
def test_a_lost_process_is_no_full_disk(tmp_path, monkeypatch, step):
    run, diary = make(tmp_path)

    def lost(self, model, snapshot):
        if snapshot.step == step:
            raise ConnectionAbortedError("another process has ended")

    monkeypatch.setattr(CheckpointFolder, "save", lost)
    with pytest.raises(ConnectionAbortedError, match="another process has ended"):
        run.train()
    assert not any(line[0] == "warned" and "no checkpoint" in line[1] for line in diary.lines)
    assert not (tmp_path / MODEL_FILE).exists()


PROGRAM = """
import sys
import mlx.core as mx
mx.set_default_device(mx.cpu)
from tests.train.test_run import make
from ghost_native.train.run import Watcher

class Tell(Watcher):
    def saved(self, step, path): print("saved", step, flush=True)

run, _ = make(sys.argv[1], score=False, total_steps=1000000, ckpt_interval=1, ckpt_keep=2, log_interval=1)
run.watcher = Tell()
print("resumed", run.resume(), flush=True)
run.train()
"""


def kill_somewhere(folder: Path, words: int, delay: float) -> tuple[int, list[int]]:
    """Start the run, kill it `delay` seconds after so many reports: the step it resumed at, those reported saved.

    Counted in reports, for a busy machine may need any time for a step.
    """
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        resumed = int(process.stdout.readline().split()[1])
        lines = [process.stdout.readline() for _ in range(words)]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout
        saved = [int(line.split()[1]) for line in lines if line.startswith("saved") and line.endswith("\n")]
    return resumed, saved


def test_kills_at_random_moments_lose_nothing_that_was_reported_saved(tmp_path):
    kills = int(os.environ.get("GHOST_NATIVE_TEST_KILLS", "8"))
    rng, reported = np.random.default_rng(0), 0
    for i in range(kills):
        # The first before any report, then at any moment of a step that goes on.
        words = 0 if i == 0 else int(rng.integers(1, 6))
        resumed, saved = kill_somewhere(tmp_path, words, float(rng.uniform(0.0, 0.1)))
        assert resumed >= reported
        reported = max([resumed, *saved])
    run, diary = make(tmp_path, score=False, total_steps=1_000_000, ckpt_interval=1, ckpt_keep=2)
    assert run.resume() >= reported > kills
    assert not any(line[0] == "warned" and "damaged" in line[1] for line in diary.lines)
    mx.eval(run.trainer.model.parameters())
    assert all(mx.isfinite(w).all().item() for w in weights(run.trainer.model).values())

"""The folder of a run: one writer at a time, and an earlier run is replaced by one that works."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ghost_native.models import export_model
from ghost_native.train.checkpoint import MODEL_FILE, CheckpointFolder
from ghost_native.train.folder_lock import LOCK_FILE, FolderBusyError, FolderLock
from ghost_native.train.logs import SUMMARY_FILE, read_metrics
from tests.train.runs import tiny
from tests.train.test_run import PROGRAM, ROOT, make


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock's."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def other(tmp_path):
    """Another process that trains into the folder."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.startswith("saved"))
        yield process
        process.kill()


def test_a_second_process_is_told_who_trains_there(tmp_path, other):
    run, _ = make(tmp_path)
    with pytest.raises(FolderBusyError, match=rf"is being trained into by process {other.pid} on .*; wait for it"):
        run.train(overwrite=True)
    assert other.poll() is None and CheckpointFolder(tmp_path).newest()[0] is not None
    assert read_metrics(tmp_path), "reading needs no lock"


def test_a_killed_process_leaves_no_lock_behind(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == other.pid
    run, _ = make(tmp_path, score=False, ckpt_interval=1, total_steps=1_000_000)
    begun = run.resume()
    assert begun > 0 and run.train(stop=lambda: True).steps == begun
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lock_is_given_back(tmp_path):
    run, _ = make(tmp_path)
    with run.locked():
        with run.locked(), pytest.raises(FolderBusyError, match=f"process {os.getpid()} on"):
            FolderLock(tmp_path).acquire()
        with pytest.raises(FolderBusyError):
            make(tmp_path)[0].train()
    lock = FolderLock(tmp_path)
    assert lock.acquire() and lock.held
    lock.release()
    lock.release()
    run.train()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("ghost_native.train.folder_lock.fcntl.flock", none)
    run, diary = make(tmp_path)
    with run.locked():
        assert run.train().steps == 10
    assert sum(line[0] == "warned" and "has no locks" in line[1] for line in diary.lines) == 1


def test_a_run_is_not_replaced_unasked(tmp_path):
    make(tmp_path)[0].train()
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run of 10 steps; resume it, overwrite it, or give another"):
        make(tmp_path)[0].train()
    assert contents(tmp_path) == before


def test_going_on_with_a_finished_run_keeps_what_its_summary_said(tmp_path):
    run, _ = make(tmp_path)
    run.train()
    path = run.logs / SUMMARY_FILE
    before, model = json.loads(path.read_text()), (tmp_path / MODEL_FILE).read_bytes()
    assert before["loss"] and before["bpb"]
    again, _ = make(tmp_path)
    assert again.resume() == 10
    summary = again.train()
    after = json.loads(path.read_text())
    assert {**after, "peak_memory_bytes": 0, "seconds": 0, "throughput": 0} == {
        **before, "peak_memory_bytes": 0, "seconds": 0, "throughput": 0
    }  # fmt: skip
    assert after["peak_memory_bytes"] >= before["peak_memory_bytes"]
    assert after["seconds"] == pytest.approx(before["seconds"], abs=1)
    assert summary.loss == before["loss"] and (tmp_path / MODEL_FILE).read_bytes() == model
    path.write_text("{")  # killed before it was written is no summary, and one of another step says nothing of this
    again, _ = make(tmp_path)
    again.resume(9)
    assert again.train().steps == 10 and json.loads(path.read_text())["loss"] == before["loss"]


class NoData:
    """A source that cannot be read."""

    batch, seqlen, run, epoch = 4, 32, 8, 0.0

    def state(self):
        return {}

    def __next__(self):
        raise OSError("the data are gone")


@pytest.mark.parametrize("failure", ["data", "loss", "stop"])
def test_a_run_that_cannot_start_replaces_nothing(tmp_path, failure):
    make(tmp_path)[0].train()
    before = contents(tmp_path)
    run, _ = make(tmp_path)
    if failure == "stop":
        summary = run.train(stop=lambda: True, overwrite=True)
        assert (summary.steps, summary.model_path, summary.checkpoint_path) == (0, None, None)
    elif failure == "loss":
        run.trainer.model.head.weight *= math.nan
        with pytest.raises(FloatingPointError, match="not finite at step 1"):
            run.train(overwrite=True)
    else:
        run.trainer.source = NoData()
        with pytest.raises(OSError, match="the data are gone"):
            run.train(overwrite=True)
    assert contents(tmp_path) == before


def test_an_overwritten_run_leaves_nothing_behind(tmp_path):
    make(tmp_path / "old", ckpt_keep=9, sample_interval=2, sample_prompts=("x",))[0].train()
    before = contents(tmp_path / "old")
    run, _ = make(tmp_path / "old", ckpt_keep=9, ema_decay=0.5, total_steps=5, ckpt_interval=5, eval_interval=0)
    run.train(overwrite=True)
    fresh, _ = make(tmp_path / "new", ckpt_keep=9, ema_decay=0.5, total_steps=5, ckpt_interval=5, eval_interval=0)
    fresh.train()
    after = contents(tmp_path / "old")
    names = [{name for name in found if "tfevents" not in name} for found in (after, contents(tmp_path / "new"))]
    assert names[0] == names[1]
    events = [name for name in after if "tfevents" in name]
    assert not any(after[name].startswith(before[name]) for name in events if name in before)
    assert len(events) <= 1
    assert {line["kind"] for line in read_metrics(tmp_path / "old")} == {"train"}
    assert [line["step"] for line in read_metrics(tmp_path / "old") if line["kind"] == "train"] == [1, 2, 4]
    assert CheckpointFolder(tmp_path / "old").steps() == [5]


@pytest.mark.parametrize(("back", "changes"), [(6, {}), (6, {"total_steps": 6}), (4, {})])
def test_a_step_gone_back_to_removes_nothing_before_the_next_one(tmp_path, back, changes):
    make(tmp_path, ckpt_keep=9)[0].train()
    before = contents(tmp_path)
    run, _ = make(tmp_path, ckpt_keep=9, **changes)
    assert run.resume(back) == back
    summary = run.train(stop=lambda: not changes)
    assert (summary.steps, summary.interrupted, summary.model_path) == (back, not changes, None)
    assert contents(tmp_path) == before


def test_what_fails_to_be_kept_costs_no_run(tmp_path):
    make(tmp_path)[0].train()
    before = contents(tmp_path)
    run, _ = make(tmp_path)

    def keep(folder, replaces):
        assert folder == tmp_path and replaces
        raise OSError("no such tokenizer")

    run.keep = keep
    with pytest.raises(OSError, match="no such tokenizer"):
        run.train(overwrite=True)
    assert contents(tmp_path) == before


def test_a_model_without_checkpoints_is_not_replaced_unasked(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"all that is left")
    with pytest.raises(FileExistsError, match=r"holds a finished model \(model.safetensors\); overwrite it, or give"):
        make(tmp_path)[0].train()
    run, _ = make(tmp_path)
    assert run.resume() == 0
    with pytest.raises(FileExistsError):
        run.train()
    assert contents(tmp_path) == {MODEL_FILE: b"all that is left"}
    assert make(tmp_path)[0].train(overwrite=True).model_path == str(tmp_path / MODEL_FILE)


def test_an_exported_model_is_never_replaced(tmp_path):
    export_model(tiny(), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"an exported model \(config.json\); give another train.save_dir"):
        make(tmp_path)[0].train(overwrite=True)
    assert contents(tmp_path) == before


def test_logs_elsewhere_belong_to_one_run(tmp_path):
    logs = tmp_path / "logs"
    first, _ = make(tmp_path / "a", log_path=str(logs))
    with first.locked(), pytest.raises(FolderBusyError, match=f"{logs} is being trained into .* train.log_path"):
        make(tmp_path / "b", log_path=str(logs))[0].train()
    first.train()
    before = contents(logs)
    with pytest.raises(FileExistsError, match=f"{logs} holds the metrics of a run; .* give another train.log_path"):
        make(tmp_path / "b", log_path=str(logs))[0].train()
    assert contents(logs) == before
    again, _ = make(tmp_path / "a", log_path=str(logs), total_steps=12)
    assert again.resume() == 10 and again.train().steps == 12
    assert make(tmp_path / "b", log_path=str(logs))[0].train(overwrite=True).steps == 10
    assert make(tmp_path / "c", log_path=str(tmp_path / "c"))[0].train().steps == 10, "one folder for both"


def test_what_a_run_writes_anew(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    folder.folder.mkdir()
    inside = ("", MODEL_FILE, "step-00000005", "step-00000005/model.safetensors", "../run/model.safetensors")
    assert all(folder.rewrites(folder.folder / name) for name in inside)
    outside = ("..", "../other", "teacher.safetensors", "teacher/model.safetensors", "step-5", "../run2/step-00000005")
    assert not any(folder.rewrites(folder.folder / name) for name in outside)

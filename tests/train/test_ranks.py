"""Two processes train one model: as one process with the double batch, and not for ever when one dies."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.train.checkpoint import MODEL_FILE, CheckpointFolder
from ghost_native.train.folder_lock import LOCK_FILE, FolderLock
from ghost_native.train.ranks import ALONE, PEER_LOST, Ranks, _differences, tree_digest
from ghost_native.train.shares import with_all_shares, with_own_share
from tests.tolerances import nrmse

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")

launched = pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not beside this Python")


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    for _ in range(100):
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with suppress(OSError, OverflowError):
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
                return first
    raise OSError("there are no ports to try")


def launch(processes: int, *program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *program]
    if processes > 1:
        place = ["--starting-port", str(free_ports(processes))]  # its own would be those of every run on this machine
        command = [str(LAUNCH), "-n", str(processes), "--backend", "ring", *place, "--", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def run(processes: int, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return launch(processes, "tests.train.rank_program", str(folder), json.dumps(options))


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@launched
def test_two_ranks_equal_one_with_the_double_batch(tmp_path):
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        done = run(processes, folder)
        assert f"rank 0 of {processes} done" in done.stdout, said(done)
        found.append(dict(mx.load(str(folder / "end.npz"))))
    one, two = found
    assert nrmse(np.array(two.pop("losses")), np.array(one.pop("losses"))) < 1e-5
    # AdamW divides a gradient by its own size, so tiny ones turn rounding into steps; all weights together tell.
    apart = [np.array(two[name]).ravel() - np.array(one[name]).ravel() for name in one]
    size = [np.array(one[name]).ravel() for name in one]
    assert np.linalg.norm(np.concatenate(apart)) < 1e-3 * np.linalg.norm(np.concatenate(size))


@launched
def test_a_lost_process_ends_the_other_with_a_clear_error_and_a_usable_checkpoint(tmp_path):
    done = run(2, tmp_path, die_after=3)
    assert "another process of this run has ended" in said(done), said(done)
    assert "done" not in done.stdout and not (tmp_path / "end.npz").exists()
    snapshot, damaged = CheckpointFolder(tmp_path).newest()
    assert snapshot is not None and snapshot.step >= 2 and not damaged
    done = run(2, tmp_path, resume=True)
    assert f"rank 0 of 2 done from {snapshot.step}" in done.stdout, said(done)
    whole = tmp_path / "whole"
    assert "done" in run(2, whole).stdout
    ends = [mx.load(str(CheckpointFolder(folder).path(5) / MODEL_FILE)) for folder in (tmp_path, whole)]
    assert all(mx.array_equal(ends[0][name], ends[1][name]) for name in ends[1]), "bit for bit, as with one process"


def test_what_is_carried_starts_anew_with_another_number_of_processes():
    state = {"step": 3, "carried": [[mx.ones(2)]], "teacher_carried": [None]}
    assert with_own_share(ALONE, state) is state and with_all_shares(ALONE, state) is state
    of_two = {**state, "other_processes": [{"carried": [None], "teacher_carried": [None]}]}
    assert with_own_share(ALONE, of_two)["carried"] == [None]


@launched
@pytest.mark.parametrize(
    ("second", "named"),
    [
        (
            {"lr": 0.1, "seed": 2},
            r"train.lr \(given 0.1, process 0 has 0.005\), train.seed \(given 2, process 0 has 1\);",
        ),
        ({"data_seed": 2}, "it differs in data;"),
        ({"shift": 1e-6}, "it differs in weights;"),
    ],
    ids=["configuration", "data", "weights"],
)
def test_processes_that_differ_do_not_begin(tmp_path, second, named):
    done = run(2, tmp_path, second=second)
    assert re.search(rf"process 1 does not begin as process 0 does, .*{named}", said(done)), said(done)
    assert "done" not in done.stdout and [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@launched
def test_processes_that_resume_from_different_checkpoints_do_not_go_on(tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    for folder, lr in zip(folders, (5e-3, 6e-3), strict=True):
        assert "done" in run(2, folder, lr=lr, ckpt_interval=3).stdout
    done = run(2, folders[0], resume=True, total_steps=9, second={"save_dir": str(folders[1])})
    assert re.search("it differs in weights, state of the optimizer;", said(done)), said(done)
    assert CheckpointFolder(folders[0]).steps() == [3, 5]


@launched
def test_a_busy_folder_ends_all_processes(tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    done = run(2, tmp_path)
    lock.release()
    # The first one to end makes the launcher end the other, perhaps before that has said the same.
    ends = [said(done).count(end) for end in (f"is being trained into by process {os.getpid()} on", PEER_LOST)]
    assert ends[0] >= 1 and sum(ends) >= 2, said(done)
    assert "done" not in done.stdout


@launched
def test_the_command_line_trains_with_two_processes(tmp_path):
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the quick brown fox jumps over the lazy dog.\n" * 100)
    sizes = ("--preset", "phone", "--dim", "32", "--layers", "1", "--steps", "3", "--batch", "2", "--seqlen", "16")
    command = ("ghost_native", "train", str(text), *sizes, "--save-dir", str(folder))
    done = launch(2, *command, "--resume", "auto", "--out", str(tmp_path / "m.safetensors"))
    assert "on 2 processes" in said(done) and "Held-out text" in said(done), said(done)
    assert said(done).count("there is no checkpoint in") == 1, said(done)
    assert CheckpointFolder(folder).steps() == [3] and (tmp_path / "m.safetensors").exists()
    done = launch(2, *command)
    assert "holds a run of 3 steps: --resume goes on with it" in said(done), said(done)
    done = launch(2, *command, "--resume", "auto", "--set", "train.total_steps=5")
    assert CheckpointFolder(folder).steps() == [3, 5], said(done)


def test_only_the_first_process_unpacks_what_the_others_carry(monkeypatch):
    ranks = Ranks()
    ranks.size = 2
    monkeypatch.setattr(ranks, "gather", lambda said: [said, said])
    state = {"step": 3, "carried": [[mx.ones(2)]], "teacher_carried": [None]}
    found = with_all_shares(ranks, state)
    assert mx.array_equal(found["other_processes"][0]["carried"][0][0], mx.ones(2))
    ranks.rank = 1
    assert with_all_shares(ranks, state) is state


def test_differences_are_told_where_they_are_short():
    assert tree_digest({"a": mx.array(1.0)}) == tree_digest({"a": mx.array(1.0)})
    trees = (
        {"a": mx.array(1.0)},
        {"a": mx.array([1.0])},
        {"b": mx.array(1.0)},
        {"a": mx.array(-1.0)},
        {"a": 1.0},
        None,
    )
    assert len({tree_digest(tree) for tree in trees}) == len(trees)
    first = {f"key{i}": "1" for i in range(9)}
    text = _differences(list(first), first, {"key0": "2"})
    assert text.startswith("key0 (given 2, process 0 has 1), key1 (given nothing, process 0 has 1), ")
    assert text.endswith("and 3 more")

"""Checkpoints of a run: what comes back, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.models.atomic import TEMPORARY
from ghost_native.train.checkpoint import (
    MODEL_FILE,
    STATE_FILE,
    TRAINING_FILE,
    Best,
    CheckpointFolder,
    DamagedCheckpointError,
    Snapshot,
)


class Weights:
    """The least that can be saved as a model."""

    def __init__(self, seed: int = 0, size: int = 100) -> None:
        self.values = mx.array(np.random.default_rng(seed).standard_normal(size).astype(np.float32))

    def save(self, path: str | Path) -> None:
        mx.save_safetensors(str(path), {"w": self.values})


def tree() -> dict:
    return {
        "optimizer": {"step": mx.array(3.0), "m": {"layers.0.weight": mx.arange(6).reshape(2, 3)}},
        "state": [{"seen": 5, "exact": True, "x": mx.array([1.5], dtype=mx.bfloat16)}, None],
        "data": {"windows": 7, "stream": "abc"},
        "random": 2**100,
    }


def equal(a: object, b: object) -> bool:
    if isinstance(a, mx.array):
        return isinstance(b, mx.array) and a.dtype == b.dtype and a.shape == b.shape and bool(mx.array_equal(a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_everything_comes_back_as_it_was(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = folder.save(Weights(), Snapshot(12, tree(), 2.5))
    assert path == tmp_path / "step-00000012"
    back = folder.load(12)
    assert (back.step, back.score) == (12, 2.5)
    assert equal(back.tree, tree())
    assert mx.array_equal(mx.load(str(path / MODEL_FILE))["w"], Weights().values)


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step, score in ((10, 3.0), (20, 2.0), (30, 2.5), (40, None), (50, 2.2)):
        folder.save(Weights(), Snapshot(step, {}, score))
    assert folder.steps() == [20, 40, 50]
    assert folder.best() == Best(20, 2.0)
    folder.save(Weights(), Snapshot(60, {}, 1.9))
    assert folder.steps() == [50, 60] and folder.best() == Best(60, 1.9)


def test_zero_keeps_all(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=0)
    for step in range(5):
        folder.save(Weights(), Snapshot(step))
    assert folder.steps() == list(range(5))
    with pytest.raises(ValueError, match=r"\[CheckpointFolder\] keep is out of range, given -1, allowed: 0 or more"):
        CheckpointFolder(tmp_path, keep=-1)


def test_a_run_that_goes_on_further_back_drops_what_came_later(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=0)
    for step in (1, 2, 3):
        folder.save(Weights(), Snapshot(step, {}, 3.0 - step))
    with pytest.raises(FileExistsError, match="there is something at"):
        folder.save(Weights(), Snapshot(2))
    folder.drop_after(1)
    assert folder.steps() == [1] and folder.best() == Best(1, 2.0)
    folder.save(Weights(), Snapshot(2))
    assert folder.steps() == [1, 2]


@pytest.mark.parametrize("name", [MODEL_FILE, TRAINING_FILE, STATE_FILE])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_found_and_the_one_before_it_serves(tmp_path, name, damage):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(Weights(), Snapshot(step, tree()))
    path = folder.path(2) / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        # In the middle of the numbers; of the JSON a bracket.
        data[len(data) // 2 if name != STATE_FILE else 0] ^= 0x10
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(DamagedCheckpointError, match="step-00000002"):
        folder.load(2)
    snapshot, damaged = folder.newest()
    assert snapshot is not None and snapshot.step == 1 and len(damaged) == 1


def test_another_format_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(Weights(), Snapshot(1))
    path = folder.path(1) / STATE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "other"}))
    with pytest.raises(DamagedCheckpointError, match=r"unknown format, given 'other', allowed: 'ghost_native.run.v1'"):
        folder.load(1)


def test_missing_ones_are_named(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.steps() == [] and folder.newest() == (None, []) and folder.best() is None
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4"):
        folder.load(4)


def test_what_a_killed_run_left_is_not_taken_for_a_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(Weights(), Snapshot(1))
    shutil.copytree(folder.path(1), tmp_path / f"{TEMPORARY}step-00000002-x")
    assert folder.steps() == [1]
    folder.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


FULL = """
import resource, sys, signal
from tests.train.test_checkpoint import Weights
from ghost_native.train.checkpoint import CheckpointFolder, Snapshot
folder = CheckpointFolder(sys.argv[1])
folder.save(Weights(), Snapshot(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    folder.save(Weights(size=1 << 20), Snapshot(2))
except OSError as error:
    print("refused:", error)
"""


def test_a_full_disk_is_reported_and_costs_no_earlier_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "refused: " in done.stdout, done.stdout + done.stderr
    folder = CheckpointFolder(tmp_path)
    assert folder.steps() == [1]
    assert equal(folder.load(1).tree, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]

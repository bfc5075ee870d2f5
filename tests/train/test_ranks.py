"""Two processes train one model: as one process with the double batch, and not for ever when one dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.tolerances import nrmse

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")

pytestmark = pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not beside this Python")


def run(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.train.rank_program", *map(str, arguments)]
    launch = [str(LAUNCH), "-n", str(processes), "--backend", "ring", "--"] if processes > 1 else []
    return subprocess.run(launch + program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_two_ranks_equal_one_with_the_double_batch(tmp_path):
    found = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.npz"
        done = run(processes, path)
        assert f"rank 0 of {processes} done" in done.stdout, done.stdout + done.stderr
        found.append(dict(mx.load(str(path))))
    one, two = found
    assert nrmse(np.array(two.pop("losses")), np.array(one.pop("losses"))) < 1e-5
    # AdamW divides a gradient by its own size, so tiny ones turn rounding into steps; all weights together tell.
    apart = [np.array(two[name]).ravel() - np.array(one[name]).ravel() for name in one]
    size = [np.array(one[name]).ravel() for name in one]
    assert np.linalg.norm(np.concatenate(apart)) < 1e-3 * np.linalg.norm(np.concatenate(size))


def test_a_lost_process_ends_the_other_with_a_clear_error(tmp_path):
    done = run(2, tmp_path / "never.npz", 2)
    assert "another process of this run has ended" in done.stdout + done.stderr, done.stdout + done.stderr
    assert "done" not in done.stdout
    assert not list(tmp_path.iterdir())

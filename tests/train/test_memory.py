"""What a run says of memory: the use now, and once that the machine runs short."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ghost_native.train import memory
from ghost_native.train.memory import MemoryMonitor, MemoryUse, memory_use


@pytest.fixture
def left(monkeypatch):
    """Set it to the bytes that the machine has left."""
    values = [2 << 30]

    def use() -> MemoryUse:
        return MemoryUse(active=1, peak=3_200_000_000, cached=0, process=5, available=values[-1])

    monkeypatch.setattr(memory, "memory_use", use)
    return values


def test_a_machine_that_runs_short_is_a_warning_once(left):
    monitor = MemoryMonitor()
    assert monitor.check()[1] is None
    left.append((512 << 20) - 1)
    use, said = monitor.check()
    assert use.available == left[-1] and said is not None
    assert said.startswith("only 0.5 GB of memory are left, this run holds 3.2 GB; a smaller micro_batch_size")
    assert monitor.check()[1] is None, "said once"
    assert MemoryMonitor().check()[1] == said, "by every run"


def test_what_cannot_be_told_is_no_warning(left):
    left.append(None)
    assert MemoryMonitor(low=1 << 60).check()[1] is None


def test_the_limit_is_the_callers(left):
    assert MemoryMonitor(low=2 << 30).check()[1] is None
    assert MemoryMonitor(low=(2 << 30) + 1).check()[1] is not None


def test_the_peak_is_of_the_run():
    mx.eval(mx.zeros((1 << 22,)) + 1)
    assert memory_use().peak >= 4 << 22
    MemoryMonitor()
    assert memory_use().peak < 4 << 22
    assert all(name.endswith("_memory_bytes") for name in memory_use().metrics())

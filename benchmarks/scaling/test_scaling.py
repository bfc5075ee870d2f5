"""Time against size and against threads, a few points each."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import codebook_matmul, ghost, selective_scan
from benchmarks.workloads.work import Work

SECONDS = 0.3
THREADS = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]


def on_curve(timed: Timed, work: Work, axis: str, at: float) -> None:
    replace(work, case=replace(work.case, curve=(axis, at))).forward(timed, seconds=SECONDS)


@pytest.mark.parametrize("M", [1, 2, 4, 8, 16, 64, 256, 1024])
def test_codebook_matmul_by_rows(timed: Timed, M: int) -> None:
    on_curve(timed, codebook_matmul.make(M, 2048, 2048), "M", M)


@pytest.mark.parametrize("N", [64, 256, 1024, 4096, 16384])
def test_codebook_matmul_by_columns(timed: Timed, N: int) -> None:
    on_curve(timed, codebook_matmul.make(16, N, 1024), "N", N)


@pytest.mark.parametrize("seqlen", [1, 16, 64, 256, 1024, 4096])
def test_selective_scan_by_seqlen(timed: Timed, seqlen: int) -> None:
    on_curve(timed, selective_scan.make(1, seqlen, 512, 16), "seqlen", seqlen)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32])
def test_selective_scan_by_batch(timed: Timed, batch: int) -> None:
    on_curve(timed, selective_scan.make(batch, 256, 512, 16), "batch", batch)


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("name", ["codebook_matmul", "selective_scan"])
def test_operators_by_threads(timed: Timed, threads: int, name: str) -> None:
    work = codebook_matmul.make(256, 2048, 2048) if name == "codebook_matmul" else selective_scan.make(8, 512, 512, 16)
    on_curve(timed, work, "threads", threads)


@pytest.mark.parametrize("threads", THREADS, indirect=True)
def test_training_step_by_threads(timed: Timed, threads: int) -> None:
    model, tokens = ghost.build(), ghost.text(4, ghost.SEQLEN + 1)
    case = ghost.case("training step", model, 4, ghost.SEQLEN, curve=("threads", float(threads)))
    timed(
        ghost.training_step(model, tokens),
        case.backward(3 * case.flops, 5 * case.moved),
        expected=ghost.gradients(model, tokens)[0],
        tolerance=1e-5,
        select=lambda result: result[0],
        seconds=2.0,
    )

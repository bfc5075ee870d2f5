"""The selective scan: rivals have no operator for it, so each is timed in the forms its users write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.conftest import Timed
from benchmarks.measure import by, check
from benchmarks.peers import mlx_peer
from benchmarks.peers.extras import load
from benchmarks.workloads import selective_scan
from benchmarks.workloads.selective_scan import make

Shape = tuple[int, int, int, int]
SHAPES = selective_scan.SHAPES
SMALLER = SHAPES[:2]  # the slowest rivals take seconds at the largest

SLOW: dict[str, Any] = {"seconds": 1.5, "min_rounds": 3}
TORCH = {"torch loop (unbind)": "unbind_loop", "mambapy pscan": "mambapy_pscan", "torch loop (in place)": "in_place"}
JAX = {
    "jax lax.scan": "lax_scan",
    "jax lax.scan (checkpoints)": "lax_scan_checkpoints",
    "jax associative_scan": "associative_scan",
}
FAST = ("torch loop (in place)", "jax lax.scan", "jax lax.scan (checkpoints)")


def by_shape(shape: Shape) -> str:
    return by(*shape)


def cases(variants: Mapping[str, object]) -> pytest.MarkDecorator:
    """Every variant at every shape it can run in reasonable time."""
    found = [(v, s) for v in variants for s in (SHAPES if v in FAST else SMALLER)]
    ids = [f"{variant}-{by(*shape)}" for variant, shape in found]
    return pytest.mark.parametrize(("variant", "shape"), found, ids=ids)


@pytest.mark.parametrize("shape", SHAPES, ids=by_shape)
def test_ours(timed: Timed, shape: Shape) -> None:
    make(*shape).forward(timed)


@pytest.mark.parametrize("shape", SHAPES, ids=by_shape)
def test_ours_both(timed: Timed, shape: Shape) -> None:
    make(*shape).both(timed)


@cases(TORCH)
def test_torch(timed: Timed, variant: str, shape: Shape) -> None:
    function = getattr(load("torch_scan"), TORCH[variant])
    load("torch_peer").forward(timed, make(*shape), variant, function, **SLOW)


@cases(TORCH)
def test_torch_both(timed: Timed, variant: str, shape: Shape) -> None:
    function = getattr(load("torch_scan"), TORCH[variant])
    load("torch_peer").both(timed, make(*shape), variant, function, **SLOW)


@cases(JAX)
def test_jax(timed: Timed, variant: str, shape: Shape) -> None:
    jax = load("jax_peer")
    jax.forward(timed, make(*shape), variant, getattr(jax, JAX[variant]), **SLOW)


@cases(JAX)
def test_jax_both(timed: Timed, variant: str, shape: Shape) -> None:
    jax = load("jax_peer")
    jax.both(timed, make(*shape), variant, getattr(jax, JAX[variant]), **SLOW)


@pytest.mark.parametrize("shape", SMALLER, ids=by_shape)
def test_mlx(timed: Timed, shape: Shape) -> None:
    make(*shape).forward(timed, "MLX loop", mlx_peer.scan_loop, **SLOW)


def test_mlx_both(timed: Timed) -> None:
    make(*SHAPES[0]).both(timed, "MLX loop", mlx_peer.scan_loop, **SLOW)


def test_mlx_composed(timed: Timed) -> None:
    """Its gradients take four times as long again and are left out."""
    work = make(*SHAPES[0])
    work.forward(timed, "MLX composed form", mlx_peer.composed(work.function), **SLOW)


@pytest.mark.parametrize("shape", SMALLER, ids=by_shape)
def test_mlx_recurrence(timed: Timed, shape: Shape) -> None:
    recurrence = load("mlx_recurrence_peer")
    make(*shape).forward(timed, f"mlx-recurrence, chunks of {recurrence.CHUNK}", recurrence.scan, **SLOW)


def test_mlx_recurrence_as_it_comes() -> None:
    """With its default chunk its results are wrong, so they are not timed."""
    work = make(*SHAPES[0])
    y = load("mlx_recurrence_peer").scan(**work.inputs, chunk=32)
    with pytest.raises(AssertionError, match="NRMSE"):
        check(work.part(y), work.expected(), work.tolerance)

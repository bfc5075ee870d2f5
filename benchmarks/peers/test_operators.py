"""The other operators, against those of PyTorch and MLX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.conftest import Timed
from benchmarks.measure import by
from benchmarks.peers import mlx_peer
from benchmarks.peers.extras import load
from benchmarks.workloads.work import Work

MLX: dict[str, dict[str, Callable[..., Any]]] = {
    "causal_conv1d": {"mx.conv1d": mlx_peer.causal_conv1d, "MLX taps": mlx_peer.causal_conv1d_taps},
    "sparse_attention": {"mx.fast.scaled_dot_product_attention": mlx_peer.sparse_attention},
    "skip_gather": {"MLX indexing": mlx_peer.routed},
    "dense_matmul": {"MLX matmul": mlx_peer.dense_matmul},
    "rms_norm": {"mx.fast.rms_norm": mlx_peer.rms_norm},
    "gelu": {"mlx.nn.gelu_approx": mlx_peer.gelu},
    "embedding": {"MLX indexing": mlx_peer.embedding},
    "cross_entropy": {"mlx.nn.losses": mlx_peer.cross_entropy},
}
TORCH = {
    "causal_conv1d": {"torch conv1d": "causal_conv1d", "torch taps": "causal_conv1d_taps"},
    "sparse_attention": {"torch scaled_dot_product_attention": "sparse_attention"},
    "skip_gather": {"torch indexing": "routed"},
    "dense_matmul": {"torch linear": "dense_matmul"},
    "rms_norm": {"torch rms_norm": "rms_norm"},
    "gelu": {"torch gelu": "gelu"},
    "embedding": {"torch embedding": "embedding"},
    "cross_entropy": {"torch cross_entropy": "cross_entropy"},
}
SHORT: dict[str, Any] = {"seconds": 0.2, "min_rounds": 3}

pytestmark = pytest.mark.usefixtures("turns")


def workload(operator: str) -> Any:
    return importlib.import_module(f"benchmarks.workloads.{operator}")


def make(operator: str, shape: tuple[int, ...]) -> Work:
    work: Work = workload(operator).make(*shape)
    return work


def cases(table: dict[str, Any] | None = None) -> pytest.MarkDecorator:
    """Every operator, shape and variant."""
    found = [
        (operator, shape, variant)
        for operator in MLX
        for shape in workload(operator).SHAPES
        for variant in (table[operator] if table else [""])
    ]
    ids = [" ".join(filter(None, (operator, by(*shape), variant))) for operator, shape, variant in found]
    return pytest.mark.parametrize(("operator", "shape", "variant"), found, ids=ids)


@cases()
def test_ours(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    make(operator, shape).forward(timed, **SHORT)


@cases()
def test_ours_both(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    make(operator, shape).both(timed, **SHORT)


@cases(TORCH)
def test_torch(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    peer = load("torch_peer")
    peer.forward(timed, make(operator, shape), variant, getattr(peer, TORCH[operator][variant]), **SHORT)


@cases(TORCH)
def test_torch_both(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    peer = load("torch_peer")
    peer.both(timed, make(operator, shape), variant, getattr(peer, TORCH[operator][variant]), **SHORT)


@cases(MLX)
def test_mlx(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    make(operator, shape).forward(timed, variant, MLX[operator][variant], **SHORT)


@cases(MLX)
def test_mlx_both(timed: Timed, operator: str, shape: tuple[int, ...], variant: str) -> None:
    make(operator, shape).both(timed, variant, MLX[operator][variant], **SHORT)

"""Operators in MLX's own operations, as its users write them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

import ghost_native as gn


def composed(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """An operator of ours built from MLX's operations."""

    def run(**inputs: Any) -> mx.array:
        with gn.composed_form():
            return function(**inputs)

    return run


def scan_loop(
    u: mx.array, delta: mx.array, A: mx.array, B: mx.array, C: mx.array, D: mx.array, delta_bias: mx.array
) -> mx.array:
    """One step at a time. Compiled it is slower: 0.5 s forward, and 7 s with gradients instead of 1.4."""
    dt, h, ys = nn.softplus(delta + delta_bias), mx.zeros((u.shape[0], *A.shape)), []
    for t in range(u.shape[1]):
        h = mx.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h @ C[:, t, :, None])[..., 0])
    return mx.stack(ys, 1) + u * D


def causal_conv1d(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Its grouped convolution."""
    padded = mx.pad(x, [(0, 0), (weight.shape[1] - 1, 0), (0, 0)])
    return nn.silu(mx.conv1d(padded, weight[..., None], groups=x.shape[2]) + bias)


def causal_conv1d_taps(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """One product per tap."""
    width, seqlen = weight.shape[1], x.shape[1]
    padded = mx.pad(x, [(0, 0), (width - 1, 0), (0, 0)])
    y = bias
    for i in range(width):
        y = y + padded[:, i : i + seqlen] * weight[:, i]
    return nn.silu(y)


def routed(x: mx.array, mask: mx.array, gate: mx.array) -> Any:
    """Indices by way of NumPy, for MLX has no operation whose result has as many rows as a mask has ones."""
    index = mx.array(np.flatnonzero(np.array(mask)).astype(np.int32))
    flat = x.reshape(-1, x.shape[-1])
    rows = flat[index]
    return flat.at[index].add(gate * (2 * rows - rows)).reshape(x.shape)


def dense_matmul(x: mx.array, weight: mx.array) -> mx.array:
    return x @ weight.T


def rms_norm(x: mx.array, weight: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, weight, 1e-5)


def gelu(x: mx.array) -> Any:
    return nn.gelu_approx(x)


def embedding(weight: mx.array, tokens: mx.array) -> mx.array:
    return weight[tokens]


def cross_entropy(logits: mx.array, targets: mx.array) -> Any:
    return nn.losses.cross_entropy(logits, targets)


@lru_cache(maxsize=4)
def attention_bias(seqlen: int, num_heads: int, stride: int) -> mx.array:
    """(num_heads, seqlen, seqlen): what sparse attention adds to the scores."""
    row = np.arange(seqlen)
    distance = row[:, None] - row
    far = (distance >= stride) & (row % stride == stride - 1)
    slopes = 2.0 ** (-8.0 / num_heads * np.arange(1, num_heads + 1))
    near = np.where((distance >= 0) & (distance < stride), -slopes[:, None, None] * distance, -1e9)
    return mx.array(np.where(far, 0.0, near).astype(np.float32))


def sparse_attention(
    q: mx.array, k: mx.array, v: mx.array, *, num_heads: int = 4, stride: int = 128, **past: mx.array
) -> mx.array:
    """All pairs under a mask that is made once; the past is empty."""
    batch, seqlen, dim = q.shape
    q, k, v = (x.reshape(batch, seqlen, num_heads, -1).swapaxes(1, 2) for x in (q, k, v))
    scale = (dim // num_heads) ** -0.5
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=attention_bias(seqlen, num_heads, stride))
    return y.swapaxes(1, 2).reshape(batch, seqlen, dim)

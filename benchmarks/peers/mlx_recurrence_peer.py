"""mlx-recurrence: its scans for other devices than a Mac's GPU."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn
from mlx_recurrence import selective_scan_chunked

CHUNK = 4  # steps whose decays it multiplies up and divides by; 32, its default, is wrong at Mamba's step sizes


def scan(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array,
    delta_bias: mx.array,
    chunk: int = CHUNK,
) -> mx.array:
    y: mx.array = selective_scan_chunked(u, nn.softplus(delta + delta_bias), B, C, A, chunk_size=chunk)
    return y + u * D

"""PyTorch on the CPU: operators as its users write them, and how they are timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import ghost_native as gn
from benchmarks.workloads.work import Work

Tensor = torch.Tensor
Function = Callable[..., Tensor]


def use_threads() -> None:
    """As many threads as our kernels have."""
    torch.set_num_threads(gn.num_threads())


def tensor(x: Any) -> Tensor:
    """A copy of an MLX array."""
    return torch.from_numpy(np.array(x))


def operand(x: Any, dtype: str) -> Tensor:
    return tensor(x).to(getattr(torch, dtype))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ W.T without autograd."""
    with torch.inference_mode():
        return F.linear(x, weight)


def inputs_of(work: Work) -> dict[str, Tensor]:
    tensors = {name: tensor(x) for name, x in work.inputs.items()}
    return {name: x.long() if x.dtype == torch.int32 else x for name, x in tensors.items()}  # indices are int64 here


def forward(timed: Any, work: Work, variant: str, function: Function, **options: Any) -> None:
    """Check and time function(**inputs), without autograd."""
    use_threads()
    inputs = inputs_of(work)
    options = {"expected": work.expected, "tolerance": work.tolerance, **options}
    with torch.inference_mode():
        timed(
            lambda: function(**inputs),
            work.case.rival(variant),
            select=lambda y: work.part(y).numpy(),
            evaluate=None,
            **options,
        )


def both(timed: Any, work: Work, variant: str, function: Function, **options: Any) -> None:
    """Check and time function(**inputs) and its gradients."""
    use_threads()
    inputs = inputs_of(work)
    leaves = [inputs[name].requires_grad_() for name in work.differentiable]
    dy = tensor(work.dy())

    def run() -> Sequence[Tensor]:
        return torch.autograd.grad(function(**inputs), leaves, dy)

    timed(
        run,
        work.case_both.rival(variant),
        expected=work.expected_both,
        tolerance=2 * work.tolerance,
        select=lambda gradients: [g.numpy() for g in work.part_both(gradients)],
        evaluate=None,
        **options,
    )


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Its grouped convolution wants channels before time."""
    dim, width = weight.shape
    y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=width - 1, groups=dim)
    return F.silu(y[..., : x.shape[1]]).transpose(1, 2)


def causal_conv1d_taps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One product per tap, channels last."""
    width, seqlen = weight.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0))
    y = bias + sum(padded[:, i : i + seqlen] * weight[:, i] for i in range(width))
    return F.silu(y)


def routed(x: Tensor, mask: Tensor, gate: Tensor) -> Tensor:
    flat = x.flatten(0, -2)
    index = mask.flatten().nonzero()[:, 0]
    rows = flat.index_select(0, index)
    return flat.index_copy(0, index, torch.lerp(rows, 2 * rows, gate)).reshape(x.shape)


def dense_matmul(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-5)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def embedding(weight: Tensor, tokens: Tensor) -> Tensor:
    return F.embedding(tokens, weight)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@lru_cache(maxsize=4)
def attention_bias(begin: int, seqlen: int, heads: int, stride: int) -> Tensor:
    """(1, heads, seqlen, begin + seqlen): what sparse attention adds to the scores of rows from `begin` on."""
    with torch.inference_mode(False):
        row = torch.arange(begin + seqlen)
        distance = row[begin:, None] - row
        near = (distance >= 0) & (distance < stride)
        far = (distance >= stride) & (row % stride == stride - 1)
        slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
        return torch.where(near, -slopes[:, None, None] * distance, torch.where(far, 0.0, -1e9))[None]


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, *, num_heads: int = 4, stride: int = 128, **past: Tensor
) -> Tensor:
    """All pairs under a mask that is made once; the past is empty."""
    batch, seqlen, dim = q.shape
    q, k, v = (x.reshape(batch, seqlen, num_heads, -1).transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_bias(0, seqlen, num_heads, stride))
    return y.transpose(1, 2).reshape(batch, seqlen, dim)

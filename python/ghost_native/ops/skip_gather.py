"""Routing: run a layer on some rows only, and leave the others as they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx

from ghost_native import _ext

_BUCKET = 64  # capacities are multiples of this, so that compiled functions see few different shapes


class RoutingPlan(NamedTuple):
    """The rows a layer works on. A tree of arrays: it passes through ``mx.compile`` and ``mlx.utils`` as it is.

    Attributes:
        indices: ``(n,)`` int32, rows of the flat ``(total, dim)`` operand in increasing order. With a capacity ``n``
            is the capacity, and entries left over hold ``total``.
        cu_seqlens: ``(batch + 1,)`` int32, sequence ``b`` is entries ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``.
            Pass it on to :func:`causal_conv1d` and the like.
        count: ``()`` int32, how many rows the mask selects, more than the capacity if some had to be left out.
        total: how many rows the mask has.
    """

    indices: mx.array
    cu_seqlens: mx.array
    count: mx.array  # type: ignore[assignment]  # hides tuple.count, which a plan has no use for
    total: int

    @property
    def valid(self) -> mx.array:
        """``(n,)`` bool: which entries name a row; only a plan with a capacity has others."""
        return mx.arange(self.indices.shape[0]) < self.count


def bucketed_capacity(count: int) -> int:
    """The capacity to compile for when ``count`` rows are expected: the next multiple of 64, at least 64.

    Raises:
        ValueError: if count is negative.
    """
    if count < 0:
        raise ValueError(f"[bucketed_capacity] count is negative, given {count}, allowed: 0 or more.")
    return max(1, -(-count // _BUCKET)) * _BUCKET


def routing_plan(
    mask: mx.array,
    *,
    capacity: int | None = None,
    cu_seqlens: mx.array | None = None,
    stream: mx.Stream | mx.Device | None = None,
) -> RoutingPlan:
    """List the rows where ``mask`` is true, in order (stream compaction by prefix sums).

    Args:
        mask: ``(batch, seqlen)`` bool, or ``(total,)``, one sequence or those of ``cu_seqlens``.
        capacity: None, or the fixed length of the plan. None makes a plan of exactly the rows selected; it evaluates
            the mask, so it must be called outside ``mx.compile`` and ``mx.vmap``. An integer works everywhere: the
            first ``capacity`` rows in order are kept, ``count`` still tells how many there were, and missing rows are
            padded. See :func:`bucketed_capacity`.
        cu_seqlens: ``(batch + 1,)`` int32 boundaries of a flat mask, as those of the plan that made its rows. Rows of
            no sequence, such as the padding of that plan, are never selected.
        stream: where to run.

    Returns:
        A :class:`RoutingPlan`. Nothing in it is differentiable; gradients reach a router through the ``gate`` of
        :func:`skip_scatter`.

    Raises:
        ValueError: on a wrong shape or dtype, a negative capacity, or no capacity inside ``mx.compile``.
    """
    indices, cu, count = _ext.routing_plan(mask, capacity=capacity, cu_seqlens=cu_seqlens, stream=stream)
    return RoutingPlan(indices, cu, count, mask.size)


def skip_gather(x: mx.array, plan: RoutingPlan, *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """Take the rows of a plan: ``y[i] = x[plan.indices[i]]``.

    Args:
        x: ``(batch, seqlen, dim)`` or ``(total, dim)``; float32, float16 or bfloat16.
        plan: made by :func:`routing_plan`. Its indices should be distinct: of entries that name the same row only the
            last one receives a gradient. Entries out of range, such as padding, give zeros.
        stream: where to run.

    Returns:
        ``(n, dim)`` in x's dtype.

    Differentiable in x.

    Raises:
        ValueError: on a wrong shape or dtype, or a plan of another number of rows.

    Skipping as in mixture of depths (Raposo et al., 2024, arXiv:2404.02258), with work proportional to the rows taken.
    """
    _check_total("skip_gather", x, plan)
    y: mx.array = _ext.skip_gather(x, plan.indices, stream=stream)
    return y


def skip_scatter(
    x: mx.array,
    y: mx.array,
    plan: RoutingPlan,
    gate: mx.array | None = None,
    *,
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array:
    """Put the rows of a plan back: row ``plan.indices[i]`` becomes ``y[i]``, or ``x + gate[i] * (y[i] - x)``.

    Args:
        x: ``(batch, seqlen, dim)`` or ``(total, dim)``; float32, float16 or bfloat16. Rows outside the plan are
            returned unchanged, bit for bit.
        y: ``(n, dim)``, rounded to x's dtype.
        plan: the one y was gathered with. Of entries that name the same row the last one counts; entries out of
            range, such as padding, do nothing.
        gate: ``(n,)`` or None. The blend is computed in float32.
        stream: where to run. On the CPU x's memory is reused when nothing else needs it.

    Returns:
        x's shape and dtype.

    Differentiable in x, y and gate.

    Raises:
        ValueError: on a wrong shape or dtype, or a plan of another number of rows.
    """
    _check_total("skip_scatter", x, plan)
    out: mx.array = _ext.skip_scatter(x, y, plan.indices, gate, stream=stream)
    return out


def _check_total(op: str, x: mx.array, plan: RoutingPlan) -> None:
    rows = math.prod(x.shape[:-1])
    if rows != plan.total:
        raise ValueError(
            f"[{op}] x has the wrong number of rows for this plan, given {rows} rows of shape {tuple(x.shape)}, "
            f"allowed: {plan.total}."
        )

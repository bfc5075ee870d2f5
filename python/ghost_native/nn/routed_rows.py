"""Rows on their way through routed layers."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import ops


class RoutedRows:
    """The residual stream while fewer and fewer of its rows go on.

    A layer takes its rows out of those of the layer before, and rows that stop wait where they were until `together`
    puts all back. So what is moved is in proportion to the rows that go on, but for once at either end.

    Args:
        h: (batch, seqlen, dim).
        depth: (batch, seqlen) of the router.

    Attributes:
        h: the rows that go on: as given until the first `narrow`, then (n, dim).
        residual: None, or what is still to be added to them.
        depth: (n, 1), theirs.
        total: how many rows there are.
    """

    def __init__(self, h: mx.array, depth: mx.array) -> None:
        self.h, self.depth = h, depth.reshape(-1, 1)
        self.residual: mx.array | None = None
        self.total = depth.size
        self._shape = h.shape
        self._stopped: list[tuple[mx.array, ops.RoutingPlan]] = []

    def narrow(self, plan: ops.RoutingPlan) -> None:
        """Go on with the rows of a plan of these rows."""
        if plan.indices.shape[0] < plan.total:
            h = self._sum()
            self._stopped.append((h, plan))
            self.h, self.depth = ops.skip_gather(h, plan), ops.skip_gather(self.depth, plan)
        elif self.h.ndim == 3:
            self.h = self._sum().reshape(-1, self.h.shape[-1])

    def update(self, h: mx.array, residual: mx.array, gate: mx.array | None) -> None:
        """Move the rows to h + residual, each (n, dim), by the share `gate` (n,) of the way; None is all of it."""
        if gate is None:
            self.h, self.residual = h, residual
            return
        before, n = self._sum(), h.shape[0]
        rows, count = mx.arange(n, dtype=mx.int32), mx.array(n, dtype=mx.int32)
        everything = ops.RoutingPlan(rows, mx.array([0, n], dtype=mx.int32), count, n)
        self.h = ops.skip_scatter(before, h + residual, everything, gate)

    def together(self) -> tuple[mx.array, mx.array | None]:
        """All rows (batch, seqlen, dim), those that stopped as they were then, and what is still to be added."""
        if not self._stopped:
            return self.h.reshape(self._shape), None if self.residual is None else self.residual.reshape(self._shape)
        h = self._sum()
        for stopped, plan in reversed(self._stopped):
            h = ops.skip_scatter(stopped, h, plan)
        return h.reshape(self._shape), None

    def whole(self) -> mx.array:
        """All rows, with nothing left to be added."""
        h, residual = self.together()
        return h if residual is None else h + residual

    def _sum(self) -> mx.array:
        if self.residual is not None:
            self.h, self.residual = self.h + self.residual, None
        return self.h

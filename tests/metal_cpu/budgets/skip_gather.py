"""What the kernels of routing_plan, skip_gather and skip_scatter may load and store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from tests.metal_cpu.budget import SEGMENTS_LIMIT, SIZES, Buffer, Case, Launch, ceil_div

import ghost_native as gn

INT = FLOAT = SIZES["float32"]
BLOCK_ROWS = 512
PAD_ENTRIES = 128
RANGE = 16  # bytes of what the scan says of all rows
SCATTERED = "one word a routed row, and routed rows are apart"
ODD_ROWS = "rows do not begin at multiples of 64 bytes"
UNIFORM = "one word for the 32 lanes of a row"


@dataclass(frozen=True)
class Mask:
    """A mask (batch, seqlen) whose plan has ``capacity`` entries."""

    batch: int
    seqlen: int
    capacity: int
    every: int = 4

    def run(self) -> list[mx.array]:
        rows = np.arange(self.batch * self.seqlen).reshape(self.batch, self.seqlen)
        return list(gn.routing_plan(mx.array(rows % self.every == 0), capacity=self.capacity)[:3])

    def launches(self) -> list[Launch]:
        total = self.batch * self.seqlen
        blocks = ceil_div(total, BLOCK_ROWS)
        boundaries = self.batch + 1
        # A boundary is counted by reading its block up to it.
        partial = sum(b * self.seqlen % BLOCK_ROWS for b in range(boundaries))
        # What each SIMD-group needs to know of the range: three words, or one.
        ranges = INT * (3 * blocks + boundaries + ceil_div(self.capacity, PAD_ENTRIES))
        scan = [
            Buffer("counts", loaded=INT * blocks, size=INT * blocks, streamed=True),
            Buffer("before", stored=INT * (blocks + 1), size=INT * (blocks + 1), streamed=True),
            Buffer("range", stored=RANGE, size=RANGE, streamed=True),
            Buffer("count", stored=INT, size=INT, streamed=True),
        ]
        write = [
            Buffer("mask", loaded=total + partial, size=total, why="rows before a boundary are counted again"),
            Buffer("cu_seqlens"),
            Buffer("before", loaded=INT * (blocks + boundaries), size=INT * (blocks + 1), why=UNIFORM),
            Buffer("range", loaded=ranges, size=RANGE, why="read by every SIMD-group"),
            Buffer("indices", stored=INT * self.capacity, size=INT * self.capacity, streamed=True),
            Buffer("boundaries", stored=INT * boundaries, size=INT * boundaries, streamed=True),
        ]
        count = [
            Buffer("mask", loaded=total, size=total, streamed=True),
            Buffer("counts", stored=INT * blocks, size=INT * blocks, streamed=True),
        ]
        per = ("row of the mask", total)
        return [
            Launch(kernel="routing_plan_count", buffers=count, per=per),
            Launch(kernel="routing_plan_scan", buffers=[Buffer("mask"), Buffer("cu_seqlens"), *scan], per=per),
            Launch(kernel="routing_plan_write", buffers=write, per=per),
        ]


@dataclass(frozen=True)
class Routed:
    """Rows (rows, dim) and the entries of a plan."""

    rows: int
    dim: int
    indices: Sequence[int]
    dtype: str

    @property
    def n(self) -> int:
        return len(self.indices)

    @property
    def valid(self) -> int:
        """Entries that name a row."""
        return sum(0 <= i < self.rows for i in self.indices)

    @property
    def live(self) -> int:
        """Entries that change a row: of those that name the same one, the last."""
        return len({i for i in self.indices if 0 <= i < self.rows})

    @property
    def row(self) -> int:
        return self.dim * SIZES[self.dtype]

    @property
    def packed(self) -> bool:
        return self.row % 16 == 0

    def operand(self, name: str, rows: int, loaded: int = 0, stored: int = 0, row: int = 0) -> Buffer:
        """Rows moved of an operand, each of them once."""
        row = row or self.row
        return Buffer(
            name,
            loaded=loaded * row,
            stored=stored * row,
            size=rows * row,
            streamed=True,
            segments=SEGMENTS_LIMIT if self.packed else 1.5,
            why="" if self.packed else ODD_ROWS,
        )

    def words(self, name: str, count: int, of: int, stored: bool = False) -> Buffer:
        moved: dict[str, Any] = {"stored" if stored else "loaded": INT * count}
        return Buffer(name, **moved, size=INT * of, why=UNIFORM)

    def inverse(self) -> list[Launch]:
        # Entries of one SIMD-group that name the same row are one word.
        inverse = INT * self.live
        apart = Buffer("inverse", loaded=inverse, stored=inverse, size=INT * self.rows, segments=5.0, why=SCATTERED)
        indices = Buffer("indices", loaded=INT * self.n, size=INT * self.n, streamed=True)
        cleared = Buffer("inverse", stored=INT * self.rows, size=INT * self.rows, streamed=True)
        return [
            Launch(kernel="skip_gather_clear", buffers=[cleared], per=("row", self.rows)),
            Launch(kernel="skip_gather_invert", buffers=[indices, apart], per=("entry", self.n)),
        ]

    def gather(self) -> Launch:
        return self._gather(self.rows, self.n, self.valid)

    def gather_grad(self) -> list[Launch]:
        return [*self.inverse(), self._gather(self.n, self.rows, self.live)]

    def _gather(self, rows: int, n: int, there: int) -> Launch:
        buffers = [
            self.operand("x", rows, loaded=there),
            self.words("indices", n, n),
            self.operand("y", n, stored=n),
        ]
        return Launch(kernel=f"skip_gather_fwd_{self.dtype}", buffers=buffers, per=("element", n * self.dim))

    def scatter(self, gated: bool, saves: bool = False, in_place: bool = False) -> list[Launch]:
        copied = 0 if in_place else self.rows - self.live
        buffers = [
            self.operand("x", self.rows, loaded=copied + gated * self.live),
            self.operand("y", self.n, loaded=self.live),
            self.words("indices", self.n, self.n),
            self.words("inverse", (0 if in_place else self.rows) + self.valid, self.rows),
            self.words("gate", gated * self.live, gated * self.n),
            self.operand("out", self.rows, stored=copied + self.live),
            self.operand("difference", saves * self.n, stored=saves * self.n, row=FLOAT * self.dim),
        ]
        if in_place:
            # x and out are one buffer, so that both see what either moves.
            together = self.operand("x", self.rows, loaded=gated * self.live, stored=self.live)
            buffers[0], buffers[5] = together, Buffer("out")
        name = f"skip_gather_scatter_{self.dtype}"
        return [*self.inverse(), Launch(kernel=name, buffers=buffers, per=("element", self.rows * self.dim))]

    def scatter_grad(self, gated: bool) -> list[Launch]:
        buffers = [
            self.operand("dout", self.rows, loaded=self.rows),
            self.words("indices", self.n, self.n),
            self.words("inverse", self.rows + self.valid, self.rows),
            self.words("gate", gated * self.live, gated * self.n),
            self.operand("difference", gated * self.n, loaded=gated * self.live, row=FLOAT * self.dim),
            self.operand("dx", self.rows, stored=self.rows),
            self.operand("dy", self.n, stored=self.n),
            self.words("dgate", gated * self.n, gated * self.n, stored=True),
        ]
        name = f"skip_gather_scatter_bwd_{self.dtype}"
        return [*self.inverse(), Launch(kernel=name, buffers=buffers, per=("element", self.rows * self.dim))]

    def plan(self) -> gn.RoutingPlan:
        indices = mx.array(np.array(self.indices, np.int32))
        plan = gn.RoutingPlan(indices, mx.array([0, self.n]), mx.array(self.n), self.rows)
        mx.eval(plan[:3])
        return plan

    def normal(self, *shape: int) -> mx.array:
        x = mx.random.normal(shape).astype(getattr(mx, self.dtype))
        mx.eval(x)
        return x

    def operands(self, gated: bool) -> list[mx.array]:
        gate = mx.random.uniform(shape=(self.n,))
        mx.eval(gate)
        return [self.normal(self.rows, self.dim), self.normal(self.n, self.dim), *([gate] if gated else [])]

    def run_gather(self) -> list[mx.array]:
        return [gn.skip_gather(self.normal(self.rows, self.dim), self.plan())]

    def run_gather_grad(self) -> list[mx.array]:
        plan, dy = self.plan(), self.normal(self.n, self.dim)
        return mx.vjp(lambda x: gn.skip_gather(x, plan), [self.normal(self.rows, self.dim)], [dy])[1]

    def run_scatter(self, gated: bool, in_place: bool = False) -> list[mx.array]:
        x, *others = self.operands(gated)
        # A value that nobody else looks at leaves its memory to the output: here it is returned too, or not.
        out = gn.skip_scatter(mx.negative(x) if in_place else x, others[0], self.plan(), *others[1:])
        return [out] if in_place else [out, x]

    def run_scatter_grad(self, gated: bool) -> list[mx.array]:
        plan, dout = self.plan(), self.normal(self.rows, self.dim)
        return mx.vjp(lambda x, y, *gate: gn.skip_scatter(x, y, plan, *gate), self.operands(gated), [dout])[1]

    def cases(self, name: str) -> list[Case]:
        name = f"{name} {self.dtype}"
        return [
            Case(f"skip_gather {name}", self.run_gather, [self.gather()]),
            Case(f"skip_gather gradient {name}", self.run_gather_grad, [self.gather(), *self.gather_grad()]),
            Case(f"skip_scatter {name}", lambda: self.run_scatter(False), self.scatter(False)),
            Case(f"skip_scatter gated {name}", lambda: self.run_scatter(True), self.scatter(True)),
            Case(
                f"skip_scatter in place {name}", lambda: self.run_scatter(True, True), self.scatter(True, in_place=True)
            ),
            Case(f"skip_scatter gradients {name}", lambda: self.run_scatter_grad(False), self.scatter_grad(False)),
            Case(
                f"skip_scatter gated gradients {name}",
                lambda: self.run_scatter_grad(True),
                [*self.scatter(True, saves=True), *self.scatter_grad(True)],
            ),
        ]


QUARTER = [*range(0, 2048, 4), *[2048] * 64]  # a quarter of the rows, and entries left over
ODD = [5, 90, -3, 5, 17, 392, 393, 60, 17, 2]  # out of order, out of range, repeated

CASES: list[Case] = [
    Case("routing_plan", Mask(8, 4096, 8256).run, Mask(8, 4096, 8256).launches()),
    Case("routing_plan odd", Mask(3, 1111, 700, 3).run, Mask(3, 1111, 700, 3).launches()),
    *(case for dtype in ("float32", "float16", "bfloat16") for case in Routed(2048, 256, QUARTER, dtype).cases("rows")),
    *Routed(393, 33, ODD, "float16").cases("odd"),
]

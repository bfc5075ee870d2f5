"""What causal_conv1d's kernels may load and store, from the shape and the tiles that the host chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from tests.metal_cpu.budget import SIZES, Buffer, Case, Launch, ceil_div, gradients_of

import ghost_native as gn

LANES = 32
TILES_PER_GROUP = 4
BUSY_LANES = 4096
FLOAT = SIZES["float32"]
SHORT_TILES = "too few rows to fill a GPU: tiles are short, and the rows that they share come from cache"
SEARCHED = "looked up once per tile, from cache"
ODD = "rows do not begin at multiples of 64 bytes"
CACHED = "read once per tile of rows that it is applied to, from cache"


@dataclass(frozen=True)
class Run:
    """Rows ``first`` to ``stop`` of one tile that belong to the sequence of rows ``begin`` to ``end``."""

    first: int
    stop: int
    begin: int
    end: int


@dataclass(frozen=True)
class Shape:
    """One call. ``boundaries`` are those of the sequences; ragged ones are passed as cu_seqlens."""

    boundaries: Sequence[int]
    total: int
    dim: int
    width: int
    dtype: str
    ragged: bool = False
    has_state: bool = True

    @property
    def size(self) -> int:
        return SIZES[self.dtype]

    @property
    def batch(self) -> int:
        return len(self.boundaries) - 1

    @property
    def keep(self) -> int:
        return self.width - 1

    def pack(self, wanted: int) -> int:
        return wanted if self.dim % wanted == 0 else 1

    def tile_rows(self, pack: int, lengths: Sequence[int]) -> int:
        """The longest tile that leaves enough lanes to do."""
        for rows in sorted(lengths, reverse=True):
            if ceil_div(self.total, rows) * ceil_div(self.dim, pack) >= BUSY_LANES:
                return rows
        return min(lengths)

    def runs(self, tile_rows: int) -> list[Run]:
        return [
            Run(max(begin, t), min(end, t + tile_rows), begin, end)
            for begin, end in zip(self.boundaries, self.boundaries[1:], strict=False)
            for t in range(begin - begin % tile_rows, end, tile_rows)
            if begin < end
        ]

    @property
    def covered(self) -> int:
        """Rows that belong to a sequence."""
        return self.boundaries[-1] - self.boundaries[0]

    @property
    def rowless(self) -> int:
        """State rows of the sequences without rows, which are copied."""
        return self.keep * sum(a == b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))

    def rows_before(self, runs: list[Run]) -> tuple[int, int]:
        """Rows that windows begin with: of x, of the state."""
        of_x = sum(min(self.keep, r.first - r.begin) for r in runs)
        return of_x, self.has_state * (self.keep * len(runs) - of_x)

    def filters(self, simdgroups: int) -> list[Buffer]:
        """weight and bias, which every threadgroup stages for its SIMD-groups."""
        groups = ceil_div(simdgroups, TILES_PER_GROUP)
        rows = [("weight", self.width), ("bias", 1)]
        return [
            Buffer(name, loaded=groups * n * self.dim * FLOAT, size=n * self.dim * FLOAT, why=CACHED)
            for name, n in rows
        ]

    def cu_seqlens(self, tile_rows: int, pack: int, for_rowless: bool = True) -> Buffer:
        """Bytes of cu_seqlens: each tile's search, then boundary by boundary; and the search for no rows."""
        if not self.ragged:
            return Buffer("cu_seqlens")
        count, words = len(self.boundaries), 0
        for row in range(0, self.total, tile_rows):
            stop = min(row + tile_rows, self.total)
            found = next((i for i, b in enumerate(self.boundaries) if b > row), None)
            # 32 boundaries at a time, and the one that was found again.
            words += count if found is None else min(count, LANES * (found // LANES + 1)) + 1
            sequence, end = (self.batch, self.total) if found is None else (found - 1, self.boundaries[found])
            while row < stop:
                row = min(stop, max(row, end))
                sequence += 1
                words += sequence < self.batch
                end = self.boundaries[sequence + 1] if sequence < self.batch else self.total
        words += for_rowless * sum(b + 2 for b in range(self.batch))
        loaded = words * FLOAT * ceil_div(self.dim, LANES * pack)
        return Buffer("cu_seqlens", loaded=loaded, size=FLOAT * (self.batch + 1), why=SEARCHED)

    def buffer(self, name: str, rows: int, stored: bool = False, of: int | None = None, **options: Any) -> Buffer:
        """Rows loaded or stored, of ``of`` rows that there are."""
        row = self.dim * self.size
        moved: dict[str, Any] = {"stored" if stored else "loaded": rows * row}
        return Buffer(name, **moved, size=(rows if of is None else of) * row, **options)

    def row_segments(self, pack: int, reasons: Sequence[str] = ()) -> dict[str, Any]:
        """Options of a buffer of rows, which are read element by element where they are no whole packs."""
        odd = pack == 1
        return {"why": "; ".join([*reasons, *[ODD] * odd]), **({"segments": 1.5} if odd else {})}

    def forward(self) -> Launch:
        pack = self.pack(16 // self.size)
        tile_rows = self.tile_rows(pack, [1, 4, 16, 64])
        runs = self.runs(tile_rows)
        before, of_state = self.rows_before(runs)
        tiles = ceil_div(self.total, tile_rows)
        short = [] if tile_rows == 64 else [SHORT_TILES]
        segments = self.row_segments(pack)
        return Launch(
            kernel=f"causal_conv1d_fwd_{self.dtype}",
            buffers=[
                self.buffer(
                    "x", self.covered + before, of=self.total, streamed=not short, **self.row_segments(pack, short)
                ),
                *self.filters(tiles + self.ragged * self.batch),
                self.buffer(
                    "state",
                    of_state + self.has_state * self.rowless,
                    of=self.has_state * self.batch * self.keep,
                    **segments,
                ),
                self.cu_seqlens(tile_rows, pack),
                self.buffer("y", self.total, stored=True, streamed=True, **segments),
                self.buffer("last_state", self.batch * self.keep, stored=True, streamed=True, **segments),
            ],
            per=("output element", self.total * self.dim),
        )

    def backward(self) -> list[Launch]:
        pack = self.pack(4)
        tile_rows = self.tile_rows(pack, [8, 32, 128])
        runs = self.runs(tile_rows)
        before, of_state = self.rows_before(runs)
        after = sum(min(r.stop + self.keep, r.end) - r.stop for r in runs)
        # Rows past the end of a sequence complete gradients with the cotangent of its last state.
        ends = sum(
            row - self.keep >= r.first or (r.first == r.begin and self.has_state)
            for r in runs
            for row in range(r.end, r.stop + self.keep)
        )
        tiles = ceil_div(self.total, tile_rows)
        short = [] if tile_rows == 128 else [SHORT_TILES]
        segments = self.row_segments(pack)
        states = self.batch * self.keep
        partials = tiles * (self.width + 1) * self.dim * FLOAT
        filters = self.width * self.dim * FLOAT
        return [
            Launch(
                kernel=f"causal_conv1d_bwd_{self.dtype}",
                buffers=[
                    self.buffer(
                        "x",
                        self.covered + before + after,
                        of=self.total,
                        streamed=not short,
                        **self.row_segments(pack, short),
                    ),
                    *self.filters(tiles + (self.ragged * self.batch if self.has_state else 1)),
                    self.buffer("state", of_state, of=self.has_state * states, **segments),
                    self.cu_seqlens(tile_rows, pack, self.has_state),
                    self.buffer(
                        "dy", self.covered + after, of=self.total, streamed=not short, **self.row_segments(pack, short)
                    ),
                    self.buffer("dlast_state", ends + self.has_state * self.rowless, of=states, **segments),
                    self.buffer("dx", self.total, stored=True, streamed=True, **segments),
                    self.buffer("dstate", states if self.has_state else self.keep, stored=True, **segments),
                    Buffer("partials", stored=partials, size=partials, **segments),
                ],
                per=("input element", self.total * self.dim),
            ),
            Launch(
                kernel="causal_conv1d_bwd_sum_float32",
                buffers=[
                    Buffer("partials", loaded=partials, size=partials, streamed=True, **segments),
                    Buffer("dweight", stored=filters, size=filters, streamed=True),
                    Buffer("dbias", stored=self.dim * FLOAT, size=self.dim * FLOAT, streamed=True),
                ],
                per=("input element", self.total * self.dim),
            ),
        ]

    def operands(self) -> dict[str, mx.array]:
        dtype = getattr(mx, self.dtype)
        rows = (self.total, self.dim) if self.ragged else (self.batch, self.total // self.batch, self.dim)
        shapes = {"x": rows, "weight": (self.dim, self.width), "bias": (self.dim,)}
        if self.has_state:
            shapes["initial_state"] = (self.batch, self.keep, self.dim)
        kept = {"weight": mx.float32, "bias": mx.float32}
        operands = {k: mx.random.normal(shape).astype(kept.get(k, dtype)) for k, shape in shapes.items()}
        mx.eval(operands)
        return operands

    def call(self, operands: dict[str, mx.array]) -> list[mx.array]:
        cu = mx.array(list(self.boundaries), dtype=mx.int32) if self.ragged else None
        y, last_state = gn.causal_conv1d(
            operands["x"],
            operands["weight"],
            operands["bias"],
            activation="silu",
            initial_state=operands.get("initial_state"),
            cu_seqlens=cu,
            return_last_state=True,
        )
        return [y, last_state]

    def run_forward(self) -> list[mx.array]:
        return self.call(self.operands())

    def run_backward(self) -> list[mx.array]:
        return gradients_of(self.call, self.operands())

    def cases(self, name: str) -> list[Case]:
        return [
            Case(f"causal_conv1d {name} {self.dtype}", self.run_forward, [self.forward()]),
            Case(f"causal_conv1d gradients {name} {self.dtype}", self.run_backward, self.backward()),
        ]


def equal(batch: int, seqlen: int, dim: int, width: int, dtype: str, has_state: bool = True) -> Shape:
    boundaries = [b * seqlen for b in range(batch + 1)]
    return Shape(boundaries, batch * seqlen, dim, width, dtype, has_state=has_state)


CASES: list[Case] = [
    *(case for dtype in ("float32", "float16", "bfloat16") for case in equal(8, 1024, 256, 4, dtype).cases("rows")),
    *Shape([0, 700, 700, 3000, 8192], 8192, 256, 4, "float32", ragged=True).cases("ragged"),
    *equal(2, 130, 33, 3, "float16", has_state=False).cases("odd"),
    Case(
        "causal_conv1d update bfloat16",
        (update := equal(16, 1, 256, 4, "bfloat16")).run_forward,
        [update.forward()],
    ),
]

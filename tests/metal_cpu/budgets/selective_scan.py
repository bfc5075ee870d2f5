"""What selective_scan's kernels may load and store, from the shape and the variant that the host chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from tests.metal_cpu.budget import SIZES, Buffer, Case, Launch, ceil_div, gradients_of

import ghost_native as gn

FLOAT = SIZES["float32"]
CHANNELS = 32  # of a threadgroup
SIMDGROUPS = 4
PASS_STATES = 16
TILE_ROWS = 16
CHUNK = 32
SEGMENT_ROWS = 128
LONG_SEQUENCE = 512
FEW_CHANNELS = 256
LADDER_LANES = 32
LADDER_SIMDGROUPS = 8

PER_BLOCK = "staged once per block of 32 channels, from cache"
PER_PART = "read once per sequence or segment, from cache"
PER_CHUNK = "read once per chunk of 32 rows, from cache"
PER_PASS = "more than 16 states: read again in every pass over a tile of rows, from cache"
PER_SIMDGROUP = "read by every SIMD-group, from cache"
SUMMARIES = "read once per 16 states: they are spread over threadgroups where there is too little to do"
ODD_ROWS = "channels that are no whole quads go by single elements"
ODD_STATES = "states that are no whole quads go by single elements"
ODD_FLAT = "states of a segment that begin within 64 bytes"
ODD_SUMS = "parts that are no whole quads go by single elements"
PARTIAL_STATES = "the last pass over states does not fill 64 bytes"
ODD_BLOCKS = "the last block of channels begins within 64 bytes"
# Single elements: of four instructions each touches every segment, and rows begin within one.
ODD_ROW_SEGMENTS = 4.75
ODD_STATE_SEGMENTS = 3.7
PARTIAL_STATE_SEGMENTS = 1.8
ODD_CHANNEL_SEGMENTS = 1.5
ODD_SUM_SEGMENTS = 4.25
ODD_FLAT_SEGMENTS = 1.4


def limits(segments: float, reason: str, why: str = "") -> dict[str, Any]:
    """Options of a buffer with more segments than usual for one more reason."""
    return {"segments": segments, "why": f"{why}; {reason}" if why else reason}


@dataclass(frozen=True)
class Shape:
    """One call. ``boundaries`` are those of the sequences; ragged ones are passed as cu_seqlens."""

    boundaries: Sequence[int]
    total: int
    dim: int
    dstate: int
    dtype: str
    ngroups: int = 1
    ragged: bool = False
    has_state: bool = True

    @property
    def batch(self) -> int:
        return len(self.boundaries) - 1

    @property
    def lengths(self) -> list[int]:
        return [end - begin for begin, end in zip(self.boundaries, self.boundaries[1:], strict=False)]

    @property
    def covered(self) -> int:
        """Rows that belong to a sequence."""
        return sum(self.lengths)

    @property
    def chunked(self) -> bool:
        few = self.batch * self.dim < FEW_CHANNELS
        return not self.ragged and few and max(self.lengths) >= LONG_SEQUENCE

    @property
    def segments(self) -> int:
        return ceil_div(max(self.lengths), SEGMENT_ROWS) if self.chunked else 1

    @property
    def parts(self) -> int:
        return self.batch * self.segments

    @property
    def part_rows(self) -> list[int]:
        """Rows of every segment of every sequence."""
        if not self.chunked:
            return self.lengths
        return [min(SEGMENT_ROWS, n - i) for n in self.lengths for i in range(0, n, SEGMENT_ROWS)]

    @property
    def passes(self) -> int:
        return ceil_div(self.dstate, PASS_STATES)

    @property
    def group_blocks(self) -> int:
        return ceil_div(self.dim // self.ngroups, CHANNELS)

    @property
    def state(self) -> int:
        """Bytes of one state of all channels."""
        return self.dim * self.dstate * FLOAT

    @property
    def row(self) -> int:
        return self.dim * SIZES[self.dtype]

    @property
    def saved(self) -> int:
        """States between chunks."""
        return sum(max(n - 1, 0) // CHUNK for n in self.lengths)

    @property
    def saved_slots(self) -> int:
        return self.total // CHUNK if self.ragged else self.saved

    def row_segments(self, why: str = "") -> dict[str, Any]:
        whole = self.dim // self.ngroups % 4 == 0
        return {"why": why} if whole else limits(ODD_ROW_SEGMENTS, ODD_ROWS, why)

    def channel_segments(self, why: str = "") -> dict[str, Any]:
        whole = self.dim // self.ngroups % 4 == 0
        return {"why": why} if whole else limits(ODD_CHANNEL_SEGMENTS, ODD_BLOCKS, why)

    def state_segments(self, why: str = "") -> dict[str, Any]:
        if self.dstate % 4:
            return limits(ODD_STATE_SEGMENTS, ODD_STATES, why)
        if self.passes == 1 or self.dstate % PASS_STATES == 0:
            return {"why": why}
        return limits(PARTIAL_STATE_SEGMENTS, PARTIAL_STATES, why)

    def rows_in(self, name: str, times: int = 1, why: str = "") -> Buffer:
        loaded, size = times * self.covered * self.row, self.total * self.row
        return Buffer(name, loaded=loaded, size=size, streamed=not why, **self.row_segments(why))

    def rows_out(self, name: str) -> Buffer:
        size = self.total * self.row
        return Buffer(name, stored=size, size=size, streamed=True, **self.row_segments())

    def projection(self, name: str, times: int, why: str) -> Buffer:
        row = self.ngroups * self.dstate * FLOAT
        size = self.total * row
        return Buffer(name, loaded=times * self.covered * row, size=size, **self.state_segments(why))

    def channel(self, name: str, times: int, why: str = PER_PART) -> Buffer:
        size = self.dim * FLOAT
        return Buffer(name, loaded=times * size, size=size, **self.channel_segments(why))

    def states(self, name: str, loaded: int = 0, stored: int = 0, of: int | None = None, why: str = "") -> Buffer:
        """States of all channels, of ``of`` that there are."""
        size = (max(loaded, stored) if of is None else of) * self.state
        moved = {"loaded": loaded * self.state, "stored": stored * self.state}
        return Buffer(name, **moved, size=size, **self.state_segments(why))

    @property
    def cu_seqlens(self) -> Buffer:
        """Boundaries up to that of the sequence, and the next, by every SIMD-group."""
        if not self.ragged:
            return Buffer("cu_seqlens")
        words = sum(b + 2 for b in range(self.batch)) * SIMDGROUPS * self.ngroups * self.group_blocks
        return Buffer("cu_seqlens", loaded=words * FLOAT, size=(self.batch + 1) * FLOAT, why=PER_SIMDGROUP)

    def visits(self, rows: int) -> int:
        """Tiles of this many rows, over all parts: what a state is loaded for where there are many passes."""
        return sum(ceil_div(n, rows) for n in self.part_rows)

    def decay_rates(self, rows: int) -> Buffer:
        """A, which stays in registers while there is one pass."""
        if self.passes > 1:
            return self.states("A", loaded=self.visits(rows), of=1, why=PER_PASS)
        return self.states("A", loaded=sum(n > 0 for n in self.part_rows), of=1, why=PER_PART)

    def carried(self, rows: int) -> Buffer:
        n = self.visits(rows) - sum(n > 0 for n in self.part_rows) if self.passes > 1 else 0
        return self.states("carried", loaded=n, stored=n, of=min(n, self.parts), why=PER_PASS)

    @property
    def elements(self) -> tuple[str, int]:
        return ("step of a state", self.total * self.dim * self.dstate)

    def forward(self, saving: bool) -> list[Launch]:
        before = self.parts if self.chunked else self.batch * self.has_state
        summaries = self.forward_summaries() if self.chunked else []
        scan = Launch(
            kernel=f"selective_scan_fwd_{self.dtype}",
            buffers=[
                self.rows_in("u"),
                self.rows_in("delta"),
                self.decay_rates(TILE_ROWS),
                self.projection("B", self.group_blocks, PER_BLOCK),
                self.projection("C", self.group_blocks, PER_BLOCK),
                self.channel("D", SIMDGROUPS * sum(n > 0 for n in self.part_rows)),
                self.rows_in("z"),
                self.channel("delta_bias", SIMDGROUPS * sum(n > 0 for n in self.part_rows)),
                self.states("state", loaded=before),
                self.cu_seqlens,
                self.rows_out("y"),
                self.states("last_state", stored=self.batch),
                self.states("saved", stored=self.saved * saving, of=self.saved_slots * saving),
                self.carried(TILE_ROWS),
            ],
            per=self.elements,
        )
        return [*summaries, scan]

    def ladder(self, has_state: bool) -> Launch:
        elements = self.dim * self.dstate
        # Channels that the lanes of a threadgroup have, each read for every segment.
        channels = sum(
            (min(first + LADDER_LANES, elements) - 1) // self.dstate - first // self.dstate + 1
            for first in range(0, elements, LADDER_LANES)
        )
        durations = self.parts * self.dim * FLOAT
        return Launch(
            kernel="selective_scan_ladder_float32",
            buffers=[
                self.flat("A", loaded=self.batch * LADDER_SIMDGROUPS, of=1, why=PER_SIMDGROUP),
                Buffer("durations", loaded=self.parts * channels * FLOAT, size=durations, why=PER_SIMDGROUP),
                self.flat("state", loaded=self.batch * has_state),
                self.flat("states", loaded=self.parts, stored=self.parts),
            ],
            per=("element of a segment's state", self.parts * elements),
        )

    def flat(self, name: str, loaded: int = 0, stored: int = 0, of: int | None = None, why: str = "") -> Buffer:
        """States, element by element over all channels. Rows of an odd number of them begin within 64 bytes."""
        size = (max(loaded, stored) if of is None else of) * self.state
        odd = self.dim * self.dstate % 16 != 0
        options = limits(ODD_FLAT_SEGMENTS, ODD_FLAT, why) if odd else {"why": why}
        return Buffer(name, loaded=loaded * self.state, stored=stored * self.state, size=size, **options)

    def forward_summaries(self) -> list[Launch]:
        why = SUMMARIES if self.passes > 1 else ""
        u, delta = self.rows_in("u", self.passes, why), self.rows_in("delta", self.passes, why)
        B = self.projection("B", self.group_blocks, PER_BLOCK)
        summary = Launch(
            kernel=f"selective_scan_fwd_summary_{self.dtype}",
            buffers=[u, delta, self.states("A", loaded=self.parts, of=1, why=PER_PART), B, *self.summary_results],
            per=self.elements,
        )
        return [summary, self.ladder(self.has_state)]

    def backward_summaries(self) -> list[Launch]:
        why = SUMMARIES if self.passes > 1 else ""
        delta, z, dy = (self.rows_in(name, self.passes, why) for name in ("delta", "z", "dy"))
        C = self.projection("C", self.group_blocks, PER_BLOCK)
        bias, *results = self.summary_results
        A = self.states("A", loaded=self.parts, of=1, why=PER_PART)
        summary = Launch(
            kernel=f"selective_scan_bwd_summary_{self.dtype}",
            buffers=[delta, A, C, z, bias, dy, *results],
            per=self.elements,
        )
        return [summary, self.ladder(has_state=True)]

    @property
    def summary_results(self) -> list[Buffer]:
        durations = self.parts * self.dim * FLOAT
        return [
            self.channel("delta_bias", SIMDGROUPS * self.parts * self.passes),
            self.states("states", stored=self.parts),
            Buffer("durations", stored=durations, size=durations, **self.channel_segments()),
        ]

    def sum(self, name: str, count: int, size: int) -> list[Launch]:
        """The sum of parts, where there are several."""
        if count == 1:
            return []
        options = {} if size % 4 == 0 else limits(ODD_SUM_SEGMENTS, ODD_SUMS)
        buffers = [
            Buffer(
                f"parts of {name}", loaded=count * size * FLOAT, size=count * size * FLOAT, streamed=True, **options
            ),
            Buffer(name, stored=size * FLOAT, size=size * FLOAT, streamed=True, **options),
        ]
        return [Launch("selective_scan_sum_float32", buffers, per=("element", size))]

    def backward(self) -> list[Launch]:
        parts = sum(n > 0 for n in self.part_rows)
        projections = self.total * self.ngroups * self.dstate
        visits = self.visits(CHUNK)
        grad_A = (visits - parts, visits + self.parts - parts) if self.passes > 1 else (0, self.parts)
        again = {"why": PER_PASS} if self.passes > 1 else {}
        shares = self.group_blocks * projections * FLOAT
        share = {"stored": shares, "size": shares, **self.state_segments()}
        by_channel = self.parts * self.dim * FLOAT
        channel = {"stored": by_channel, "size": by_channel, **self.channel_segments()}
        scan = Launch(
            kernel=f"selective_scan_bwd_{self.dtype}",
            buffers=[
                self.rows_in("u"),
                self.rows_in("delta"),
                self.decay_rates(CHUNK),
                self.projection("B", self.group_blocks, PER_BLOCK),
                self.projection("C", self.group_blocks, PER_BLOCK),
                self.channel("D", SIMDGROUPS * self.parts),
                self.rows_in("z"),
                self.channel("delta_bias", SIMDGROUPS * visits, PER_CHUNK),
                self.states("state", loaded=sum(n > 0 for n in self.lengths) * self.has_state),
                self.cu_seqlens,
                self.states("saved", loaded=self.saved, of=self.saved_slots),
                self.rows_in("dy"),
                self.states("dlast_state", loaded=self.parts),
                self.rows_out("du"),
                self.rows_out("ddelta"),
                self.states("dA", loaded=grad_A[0], stored=grad_A[1], of=self.parts, **again),
                Buffer("dB", **share),
                Buffer("dC", **share),
                Buffer("dD", **channel),
                self.rows_out("dz"),
                Buffer("ddelta_bias", **channel),
                self.states("dstate", stored=self.batch * self.has_state),
                self.carried(CHUNK),
            ],
            per=self.elements,
        )
        return [
            *self.forward(saving=True),
            *(self.backward_summaries() if self.chunked else []),
            scan,
            *self.sum("dA", self.parts, self.dim * self.dstate),
            *self.sum("dB", self.group_blocks, projections),
            *self.sum("dC", self.group_blocks, projections),
            *self.sum("dD", self.parts, self.dim),
            *self.sum("ddelta_bias", self.parts, self.dim),
        ]

    def steps(self) -> list[Launch]:
        """The kernel of per-step states and of decoding."""
        started = sum(n > 0 for n in self.lengths)
        later = (self.covered - started) * (self.passes > 1)
        rates = self.covered if self.passes > 1 else started
        kernel = Launch(
            kernel=f"selective_scan_states_{self.dtype}",
            buffers=[
                self.rows_in("u"),
                self.rows_in("delta"),
                self.states("A", loaded=rates, of=1, why=PER_PART),
                self.projection("B", SIMDGROUPS * self.group_blocks, PER_SIMDGROUP),
                self.projection("C", SIMDGROUPS * self.group_blocks, PER_SIMDGROUP),
                self.channel("D", self.batch),
                self.rows_in("z"),
                self.channel("delta_bias", self.batch),
                self.states("state", loaded=started * self.has_state),
                self.cu_seqlens,
                self.rows_out("y"),
                self.states("states", loaded=later, stored=self.total, why=PER_PASS if later else ""),
            ],
            per=self.elements,
        )
        return [kernel]

    def operands(self) -> dict[str, mx.array]:
        dtype = getattr(mx, self.dtype)
        rows = (self.total,) if self.ragged else (self.batch, self.total // self.batch)
        projection = (*rows, self.ngroups, self.dstate)
        shapes = {"u": (*rows, self.dim), "delta": (*rows, self.dim), "A": (self.dim, self.dstate)}
        shapes |= {"B": projection, "C": projection, "D": (self.dim,), "z": (*rows, self.dim)}
        shapes |= {"delta_bias": (self.dim,)}
        if self.has_state:
            shapes["initial_state"] = (self.batch, self.dim, self.dstate)
        wide = {"u": dtype, "delta": dtype, "z": dtype}
        operands = {k: mx.random.normal(shape).astype(wide.get(k, mx.float32)) for k, shape in shapes.items()}
        operands["A"] = -mx.exp(operands["A"])
        mx.eval(operands)
        return operands

    def call(self, operands: dict[str, mx.array]) -> list[mx.array]:
        cu = mx.array(list(self.boundaries), dtype=mx.int32) if self.ragged else None
        return list(gn.selective_scan(**operands, delta_softplus=True, cu_seqlens=cu, return_last_state=True))

    def run_forward(self) -> list[mx.array]:
        return self.call(self.operands())

    def run_backward(self) -> list[mx.array]:
        return gradients_of(self.call, self.operands())

    def run_update(self) -> list[mx.array]:
        operands = self.operands()
        state = operands.pop("initial_state")
        rows = {"u", "delta", "B", "C", "z"}
        step = {name: value.squeeze(1) if name in rows else value for name, value in operands.items()}
        return list(gn.selective_state_update(state, **step, delta_softplus=True))

    def run_states(self) -> list[mx.array]:
        operands = self.operands()
        return list(gn.selective_scan_states(**operands, delta_softplus=True, return_output=True))

    def cases(self, name: str) -> list[Case]:
        return [
            Case(f"selective_scan {name} {self.dtype}", self.run_forward, self.forward(saving=False)),
            Case(f"selective_scan gradients {name} {self.dtype}", self.run_backward, self.backward()),
        ]


def equal(
    batch: int, seqlen: int, dim: int, dstate: int, dtype: str, ngroups: int = 1, has_state: bool = True
) -> Shape:
    boundaries = [b * seqlen for b in range(batch + 1)]
    return Shape(boundaries, batch * seqlen, dim, dstate, dtype, ngroups=ngroups, has_state=has_state)


UPDATE = equal(16, 1, 256, 16, "bfloat16")
WINDOW = equal(2, 6, 128, 16, "float16")
WIDE_WINDOW = equal(2, 3, 64, 32, "float32")
ODD_WINDOW = equal(2, 3, 37, 13, "float32")

CASES: list[Case] = [
    *(case for dtype in ("float32", "float16", "bfloat16") for case in equal(4, 256, 128, 16, dtype).cases("rows")),
    *equal(2, 128, 256, 16, "float32", ngroups=2, has_state=False).cases("groups"),
    *Shape([0, 100, 100, 400, 512], 512, 128, 16, "float32", ragged=True).cases("ragged"),
    *(case for dtype in ("float32", "bfloat16") for case in equal(1, 1024, 64, 16, dtype).cases("chunked")),
    *equal(2, 96, 128, 64, "float16").cases("many states"),
    *equal(1, 640, 32, 32, "float32").cases("chunked, many states"),
    *equal(2, 256, 256, 16, "float32").cases("256 channels"),
    *equal(2, 64, 64, 8, "float32").cases("8 states"),
    *equal(2, 16, 64, 20, "float32").cases("20 states"),
    *equal(2, 70, 37, 13, "float32").cases("odd"),
    *equal(1, 530, 37, 13, "float16").cases("chunked, odd"),
    Case("selective_state_update bfloat16", UPDATE.run_update, UPDATE.steps()),
    Case("selective_scan_states float16", WINDOW.run_states, WINDOW.steps()),
    Case("selective_scan_states many states float32", WIDE_WINDOW.run_states, WIDE_WINDOW.steps()),
    Case("selective_scan_states odd float32", ODD_WINDOW.run_states, ODD_WINDOW.steps()),
]

"""Traffic of the products of codebook_matmul: y (M, N) = x (M, K) W^T, or y (M, K) = x (M, N) W.

An (N, K) weight of N K / 4 bytes of codes, ``s`` bytes an element of x and y, 16 bytes a codebook.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from tests.metal_cpu.budget import SEGMENTS_LIMIT, SIZES, Buffer, Case, Launch, ceil_div

import ghost_native as gn

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
LEVELS = 16  # bytes of a codebook
TILE = 64  # rows and columns of y
BLOCK = 256  # columns whose codes four lanes load at once
GEMV_ROWS = 4  # rows of W of a SIMD-group
GEMV_COLUMNS = 512  # of x W, of a threadgroup

WHY_X = "read again for the next rows of W, from the cache"
WHY_CODES = "read again for the next rows of x"
WHY_LEVELS = "read by every SIMD-group that decodes with it, from the cache"
WHY_GROUPS = "16 of the 64 bytes of four codebooks at a time, the others in the steps right after, from the cache"
WHY_NARROW = "a tile is 64 columns, 16 of the 64 bytes of a row's codes; its neighbours take the others"
WHY_ODD = "rows that do not begin at multiples of 64 bytes"

PAIR_TABLE = "GHOST_NATIVE_PAIR_TABLE"

# Segments where rows do not begin at multiples of 64 bytes. Where lanes that want 16 bytes take single elements, each
# of the 4 or 8 instructions touches all segments: x and y of the tiled kernels.
ODD_SEGMENTS = {
    "t_gemv": {"codes": 1.4, "y": 1.2},
    "t_mma": {"codes": 5.0, "y": 1.3},
    "t_tiled": {"x": 1.55, "codes": 3.8, "y": 9.2},
    "n_gemv": {"codes": 1.4},
    "n_tiled": {"x": 13.0, "codes": 4.45, "y": 1.55},
}


@dataclass(frozen=True)
class Product:
    name: str
    m: int
    n: int
    k: int
    per: int | str  # "tensor", "row" or the columns of a group
    dtype: str
    transpose: bool = True
    pair_table: bool = False

    @property
    def size(self) -> int:
        return SIZES[self.dtype]

    @property
    def groups(self) -> int:
        return self.k // self.per if isinstance(self.per, int) else 1

    @property
    def odd_segments(self) -> dict[str, float]:
        if self.k % BLOCK == 0 and self.n % TILE == 0:
            return {}
        limits = [(4, "t_gemv"), (32, "t_mma")] if self.transpose else [(16, "n_gemv")]
        tiled = "t_tiled" if self.transpose else "n_tiled"
        return ODD_SEGMENTS[next((kernel for most, kernel in limits if self.m <= most), tiled)]

    def run(self) -> Sequence[mx.array]:
        r = np.random.default_rng(0)
        inner = self.k if self.transpose else self.n
        x = mx.array(r.standard_normal((self.m, inner)).astype(np.float32)).astype(DTYPES[self.dtype])
        codes = mx.array(r.integers(0, 2**32, (self.n, self.k // 16), dtype=np.uint32))
        shape = (4,) if self.per == "tensor" else (self.n, self.groups, 4)
        codebook = mx.array(r.standard_normal(shape).astype(np.float32))
        mx.eval(x, codes, codebook)
        if not self.pair_table:
            return [gn.codebook_matmul(x, codes, codebook, transpose=self.transpose)]
        # The host reads the variable when it launches.
        before = os.environ.get(PAIR_TABLE)
        os.environ[PAIR_TABLE] = "1"
        try:
            y = gn.codebook_matmul(x, codes, codebook, transpose=self.transpose)
            mx.eval(y)
        finally:
            os.environ.pop(PAIR_TABLE)
            if before is not None:
                os.environ[PAIR_TABLE] = before
        return [y]

    def case(self) -> Case:
        if self.transpose:
            launches = [self.dot_gemv() if self.m <= 4 else self.mma() if self.m <= 32 else self.dot_tiled()]
        else:
            launches = self.sum_gemv() if self.m <= 16 else [self.sum_tiled()]
        return Case(self.name, self.run, launches)

    # -- buffers

    def buffer(self, name: str, loaded: int, size: int, why: str, segments: float = SEGMENTS_LIMIT) -> Buffer:
        """An operand; it is streamed where it comes through once."""
        odd = self.odd_segments.get(name, SEGMENTS_LIMIT)
        if odd > segments:
            segments, why = odd, f"{why}; {WHY_ODD}"
        return Buffer(name, loaded=loaded, size=size, streamed=loaded == size, why=why, segments=segments)

    def x(self, passes: int) -> Buffer:
        size = self.m * (self.k if self.transpose else self.n) * self.size
        return self.buffer("x", passes * size, size, WHY_X)

    def codes(self, loaded: int, segments: float = SEGMENTS_LIMIT) -> Buffer:
        why = WHY_CODES if segments == SEGMENTS_LIMIT else WHY_NARROW
        return self.buffer("codes", loaded, self.n * self.k // 4, why, segments)

    def codebook(self, by_row: int, by_group: int, shared: int, segments: float = SEGMENTS_LIMIT) -> Buffer:
        """How many codebooks are read where there is one a row, a group, or in all."""
        count = {"row": by_row, "tensor": shared}.get(str(self.per), by_group)
        size = LEVELS * (1 if self.per == "tensor" else self.n * self.groups)
        grouped = isinstance(self.per, int) and segments > SEGMENTS_LIMIT
        why = WHY_GROUPS if grouped else WHY_LEVELS
        return self.buffer("codebook", LEVELS * count, size, why, segments if grouped else SEGMENTS_LIMIT)

    def y(self) -> Buffer:
        size = self.m * (self.n if self.transpose else self.k) * self.size
        segments = self.odd_segments.get("y", SEGMENTS_LIMIT)
        return Buffer("y", stored=size, size=size, streamed=True, segments=segments, why=WHY_ODD)

    def launch(self, variant: str, *buffers: Buffer) -> Launch:
        name = f"codebook_matmul_{'t' if self.transpose else 'n'}_{variant}_{self.dtype}"
        return Launch(name, list(buffers), per=("weight", self.n * self.k))

    # -- what kernels load

    def gemv_rows(self) -> int:
        return self.m if self.m <= 2 else 4

    def block_words(self) -> int:
        """Words of codes that the lanes of a row load: words after the last repeat it."""
        words = self.k // 16
        if words % 4 == 0:
            return words
        blocks = range(0, words, BLOCK // 16)
        loads = [[min(b + 4 * lane + i, words - 1) for lane in range(4)] for b in blocks for i in range(4)]
        return sum(len(set(load)) for load in loads)

    def tile_rows(self) -> int:
        """Rows of W that the loads of all tiles take, eight each: rows after the last repeat it."""
        starts = range(0, TILE * ceil_div(self.n, TILE), 8)
        return sum(max(1, min(8, self.n - start)) for start in starts)

    # -- kernels

    def dot_gemv(self) -> Launch:
        rows = self.gemv_rows()
        passes = ceil_div(self.m, rows)
        w_rows = GEMV_ROWS * ceil_div(self.n, GEMV_ROWS) * passes  # rows after the last repeat it
        x_size = self.m * self.k * self.size
        x_loaded = ceil_div(self.n, GEMV_ROWS) * passes * rows * self.k * self.size
        return self.launch(
            f"gemv_m{rows}",
            self.buffer("x", x_loaded, x_size, WHY_X),
            self.codes(w_rows * self.k // 4),
            self.codebook(w_rows, w_rows * self.groups, w_rows),
            self.y(),
        )

    def mma(self) -> Launch:
        blocks = 1 if self.m <= 8 else 2 if self.m <= 16 else 4
        passes = ceil_div(self.m, 8 * blocks)
        simdgroups = 8 // max(blocks, 2) * passes
        return self.launch(
            f"mma_m{8 * blocks}",
            self.x(ceil_div(self.n, 32)),
            self.codes(4 * passes * self.n * self.block_words()),
            self.codebook(
                simdgroups * self.n, passes * self.n * self.groups, simdgroups * ceil_div(self.n, 8), segments=4.0
            ),
            self.y(),
        )

    def dot_tiled(self) -> Launch:
        passes = ceil_div(self.m, TILE)
        return self.launch(
            "tiled",
            self.x(ceil_div(self.n, TILE)),
            self.codes(4 * passes * self.tile_rows() * self.block_words()),
            self.codebook(
                passes * self.tile_rows(),
                passes * self.tile_rows() * self.groups,
                passes * 8 * ceil_div(self.n, TILE),
                segments=4.0,
            ),
            self.y(),
        )

    def sum_gemv(self) -> list[Launch]:
        rows = self.gemv_rows()
        across = ceil_div(self.k, GEMV_COLUMNS)
        passes = ceil_div(self.m, rows)
        wanted = max(min(ceil_div(256, across * passes), self.n // 128), 1)
        splits = ceil_div(self.n, 16 * ceil_div(self.n, 16 * wanted))
        partial = splits * self.m * self.k * 4
        operands = [
            self.x(across),
            self.codes(passes * self.n * self.k // 4),
            self.codebook(across * passes * self.n, passes * self.n * self.groups, across * passes * self.n),
        ]
        if splits == 1:
            return [self.launch(f"gemv_m{rows}", *operands, self.y(), Buffer("partial"))]
        store = Buffer("partial", stored=partial, size=partial, streamed=True)
        load = Buffer("partial", loaded=partial, size=partial, streamed=True)
        return [
            self.launch(f"gemv_m{rows}", *operands, Buffer("y"), store),
            self.launch("sum", load, self.y()),
        ]

    def sum_tiled(self) -> Launch:
        passes = ceil_div(self.m, TILE)
        across = ceil_div(self.k, TILE)
        tiles = range(0, self.k, TILE)
        width = self.per if isinstance(self.per, int) else self.k
        grouped = sum(ceil_div(min(TILE, self.k - k), width) for k in tiles)
        simd_rows = 16 // self.size  # rows of W that the lanes of a SIMD-group take a step
        return self.launch(
            "tiled",
            self.x(across),
            self.codes(passes * self.n * self.k // 4, segments=4.0),
            self.codebook(
                passes * across * self.n,
                passes * self.n * grouped,
                passes * across * ceil_div(self.n, simd_rows),
                segments=4.0,
            ),
            self.y(),
        )


def every_instantiation() -> list[Product]:
    """Each kernel of few rows in each type, small."""
    return [
        Product(f"x {'W^T' if transpose else 'W'}, {m} row{'s' * (m > 1)}, {dtype}", m, n, 512, per, dtype, transpose)
        for transpose, n, rows in [(True, 64, (1, 2, 4, 8, 16, 32)), (False, 256, (1, 2, 4))]
        for m, per in zip(rows, ("row", "tensor", 64) * 2, strict=False)
        for dtype in SIZES
    ]


CASES = [
    product.case()
    for product in [
        *every_instantiation(),
        Product("x W^T, one row", 1, 64, 1024, "row", "float16"),
        Product("x W^T, one row, groups of 64", 1, 64, 1024, 64, "float32"),
        Product("x W^T, 2 rows, shared", 2, 64, 1024, "tensor", "bfloat16"),
        Product("x W^T, 4 rows, groups of 128", 4, 64, 1024, 128, "float16"),
        Product("x W^T, one row, pair table", 1, 64, 1024, "row", "float16", pair_table=True),
        Product("x W^T, 2 rows, shared, pair table", 2, 64, 1024, "tensor", "float32", pair_table=True),
        Product("x W^T, 4 rows, pair table", 4, 64, 1024, "row", "bfloat16", pair_table=True),
        Product("x W^T, 3 rows, odd", 3, 61, 1040, "row", "float32"),
        Product("x W^T, 8 rows", 8, 64, 1024, "row", "float16"),
        Product("x W^T, 16 rows, groups of 32", 16, 64, 1024, 32, "float32"),
        Product("x W^T, 32 rows, groups of 64", 32, 64, 1024, 64, "bfloat16"),
        Product("x W^T, 5 rows, shared", 5, 64, 512, "tensor", "float16"),
        Product("x W^T, 17 rows, odd", 17, 33, 272, "row", "float32"),
        Product("x W^T, 128 rows", 128, 128, 512, "row", "float16"),
        Product("x W^T, 64 rows, groups of 128", 64, 128, 512, 128, "float32"),
        Product("x W^T, 64 rows, shared", 64, 64, 256, "tensor", "bfloat16"),
        Product("x W^T, 70 rows, odd", 70, 65, 272, "row", "bfloat16"),
        Product("x W, one row, splits", 1, 512, 1024, "row", "float16", transpose=False),
        Product("x W, 2 rows, groups of 64", 2, 128, 1024, 64, "float32", transpose=False),
        Product("x W, 16 rows, shared", 16, 128, 512, "tensor", "bfloat16", transpose=False),
        Product("x W, 3 rows, odd", 3, 61, 592, "row", "float32", transpose=False),
        Product("x W, 64 rows", 64, 128, 256, "row", "float16", transpose=False),
        Product("x W, 32 rows, groups of 32", 32, 128, 256, 32, "float32", transpose=False),
        Product("x W, 64 rows, shared", 64, 64, 128, "tensor", "bfloat16", transpose=False),
        Product("x W, 70 rows, odd", 70, 65, 272, "row", "float16", transpose=False),
        # A layer, where the others are no longer than a launch takes.
        Product("x W^T, 1024 x 1024, one row", 1, 1024, 1024, "row", "float16"),
        Product("x W^T, 1024 x 1024, one row, float32", 1, 1024, 1024, "row", "float32"),
        Product("x W^T, 1024 x 1024, 8 rows", 8, 1024, 1024, "row", "float16"),
        Product("x W^T, 1024 x 1024, 64 rows", 64, 1024, 1024, "row", "float16"),
        Product("x W, 1024 x 1024, one row", 1, 1024, 1024, "row", "float16", transpose=False),
        Product("x W, 1024 x 1024, 64 rows", 64, 1024, 1024, "row", "float16", transpose=False),
    ]
]

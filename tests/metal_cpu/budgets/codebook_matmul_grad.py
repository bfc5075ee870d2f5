"""Traffic of the gradients of codebook_matmul and of the conversions between weights and codes.

M summed rows, an (N, K) weight, ``s`` bytes an element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from tests.metal_cpu.budget import SEGMENTS_LIMIT, SIZES, Buffer, Case, Launch, ceil_div
from tests.metal_cpu.budgets.codebook_matmul import Product

import ghost_native as gn

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
TILE = 64
BLOCK = 32
STEP_WORDS = 8  # of the conversions: what a SIMD-group takes in one step

WHY_TILES = "read again by every tile of 64 rows or columns of dW, from the cache"
WHY_CODES = "a tile is 64 columns, which is 16 bytes of codes in every row"
WHY_LEVELS = "read once a step of 8 words, from the cache; steps may straddle its lines"
WHY_ODD = "rows do not begin at multiples of 64 bytes"


def splits_of(m: int, n: int, k: int, keep: bool) -> int:
    """Parts that the summed rows are cut into."""
    tiles = ceil_div(n, TILE) * ceil_div(k, TILE)
    wanted = max(min(256 // tiles, m // (512 if keep else 256)), 1)
    return ceil_div(m, BLOCK * ceil_div(ceil_div(m, wanted), BLOCK))


def groups_of(k: int, per: int | str) -> int:
    return k // per if isinstance(per, int) else 1


def codebook_shape(n: int, k: int, per: int | str) -> tuple[int, ...]:
    return (4,) if per == "tensor" else (n, groups_of(k, per), 4)


def random(*shape: int, dtype: str = "float32") -> mx.array:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return mx.array(values).astype(DTYPES[dtype])


def random_codes(n: int, k: int) -> mx.array:
    return mx.array(np.random.default_rng(1).integers(0, 2**32, (n, k // 16), dtype=np.uint32))


def gradient_launches(
    m: int, n: int, k: int, per: int | str, dtype: str, *, keep: bool = False, bucket: bool = True, odd: bool = False
) -> list[Launch]:
    """The pass over dW = left^T right, left (M, N) and right (M, K), and the sums of its partial sums."""
    s = SIZES[dtype]
    splits = splits_of(m, n, k, keep)
    tiles = ceil_div(n, TILE) * ceil_div(k, TILE)
    partial = 16 * splits * (tiles if per == "tensor" else n * ceil_div(k, BLOCK)) if bucket else 0
    whole = 4 * splits * n * k

    def rows(why: str, segments: float) -> dict[str, Any]:
        """Options of a buffer whose rows do not begin at multiples of 64 bytes where the case is odd."""
        reasons = [why] * bool(why) + [WHY_ODD] * odd
        return {"why": "; ".join(reasons), **({"segments": segments} if odd else {})}

    gradient = 16 if per == "tensor" else 16 * n * groups_of(k, per)
    tile = Launch(
        f"codebook_matmul_grad_tile_{dtype}",
        [
            Buffer("left", loaded=ceil_div(k, TILE) * m * n * s, size=m * n * s, **rows(WHY_TILES, 1.65)),
            Buffer("right", loaded=ceil_div(n, TILE) * m * k * s, size=m * k * s, **rows(WHY_TILES, 1.3)),
            Buffer("codes", loaded=splits * n * k // 4, size=n * k // 4, why=WHY_CODES, segments=4.0)
            if bucket
            else Buffer("codes"),
            Buffer("dweight", stored=whole, size=whole, streamed=True) if keep else Buffer("dweight"),
            Buffer("partial", stored=partial, size=partial, streamed=True, **rows("", 1.25))
            if bucket
            else Buffer("partial"),
        ],
        per=("element of dW", n * k),
    )
    sums = Launch(
        "codebook_matmul_grad_all" if per == "tensor" else "codebook_matmul_grad_groups",
        [
            Buffer("partial", loaded=partial, size=partial, streamed=True),
            Buffer("dcodebook", stored=gradient, size=gradient, streamed=True),
        ],
        per=("partial sum", partial // 4),
    )
    launches = [tile]
    if keep and splits > 1:
        parts = Buffer("parts", loaded=whole, size=whole, streamed=True)
        dweight = Buffer("dweight", stored=4 * n * k, size=4 * n * k, streamed=True)
        launches.append(Launch("codebook_matmul_n_sum_float32", [parts, dweight], per=("element of dW", n * k)))
    return [*launches, sums] if bucket else launches


def gradient_case(name: str, m: int, n: int, k: int, per: int | str, dtype: str, *, odd: bool = False) -> Case:
    def run() -> Sequence[mx.array]:
        x, dy = random(m, k, dtype=dtype), random(m, n, dtype=dtype)
        codes, codebook = random_codes(n, k), random(*codebook_shape(n, k, per))
        mx.eval(x, dy, codes, codebook)
        return mx.vjp(lambda c: [gn.codebook_matmul(x, codes, c)], [codebook], [dy])[1]

    return Case(name, run, gradient_launches(m, n, k, per, dtype, odd=odd))


def latent_case(name: str, m: int, n: int, k: int, per: int | str, dtype: str, *, bucket: bool = True) -> Case:
    def run() -> Sequence[mx.array]:
        x, dy = random(m, k, dtype=dtype), random(m, n, dtype=dtype)
        weight, codebook = random(n, k), random(*codebook_shape(n, k, per))
        mx.eval(x, dy, weight, codebook)
        if bucket:
            return mx.vjp(lambda w, c: [gn.codebook_matmul_latent(x, w, c)], [weight, codebook], [dy])[1]
        return mx.vjp(lambda w: [gn.codebook_matmul_latent(x, w, codebook)], [weight], [dy])[1]

    # The codes are an output of the forward pass, which in training has run by then.
    forward = [assign_launch(n, k, per), Product(name, m, n, k, per, dtype).dot_tiled()]
    return Case(name, run, [*forward, *gradient_launches(m, n, k, per, dtype, keep=True, bucket=bucket)])


def levels_buffer(n: int, k: int, per: int | str) -> Buffer:
    """A SIMD-group goes through 32 words in four steps of 8, and each takes the codebooks of its words."""
    words = n * k // 16
    group = words if per == "tensor" else k // 16 // groups_of(k, per)
    straddles = group % STEP_WORDS != 0 and STEP_WORDS % group != 0
    steps = range(0, 32 * ceil_div(words, 32), STEP_WORDS)
    read = sum(min(i + STEP_WORDS - 1, words - 1) // group - min(i, words - 1) // group + 1 for i in steps)
    size = 4 * int(np.prod(codebook_shape(n, k, per)))
    return Buffer(
        "codebook", loaded=16 * read, size=size, why=WHY_LEVELS, segments=1.35 if straddles else SEGMENTS_LIMIT
    )


def assign_launch(n: int, k: int, per: int | str) -> Launch:
    return Launch(
        "codebook_assign_float32",
        [
            Buffer("weight", loaded=4 * n * k, size=4 * n * k, streamed=True),
            levels_buffer(n, k, per),
            Buffer("codes", stored=n * k // 4, size=n * k // 4, streamed=True),
        ],
        per=("weight", n * k),
    )


def assign_case(name: str, n: int, k: int, per: int | str) -> Case:
    def run() -> Sequence[mx.array]:
        weight, codebook = random(n, k), random(*codebook_shape(n, k, per))
        mx.eval(weight, codebook)
        return [gn.codebook_assign(weight, codebook)]

    return Case(name, run, [assign_launch(n, k, per)])


def dequantize_case(name: str, n: int, k: int, per: int | str, dtype: str) -> Case:
    s = SIZES[dtype]

    def run() -> Sequence[mx.array]:
        codes, codebook = random_codes(n, k), random(*codebook_shape(n, k, per))
        mx.eval(codes, codebook)
        return [gn.codebook_dequantize(codes, codebook, DTYPES[dtype])]

    launch = Launch(
        f"codebook_dequantize_{dtype}",
        [
            Buffer("codes", loaded=n * k // 4, size=n * k // 4, streamed=True),
            levels_buffer(n, k, per),
            Buffer("weight", stored=n * k * s, size=n * k * s, streamed=True),
        ],
        per=("weight", n * k),
    )
    return Case(name, run, [launch])


def bucket_sum_case(name: str, n: int, k: int, group_size: int | None) -> Case:
    groups = k // group_size if group_size else 1

    def run() -> Sequence[mx.array]:
        dw, codes = random(n, k), random_codes(n, k)
        mx.eval(dw, codes)
        return [gn.bucket_sum(dw, codes, group_size)]

    launch = Launch(
        f"bucket_sum_{'group' if group_size else 'row'}_float32",
        [
            Buffer("dw", loaded=4 * n * k, size=4 * n * k, streamed=True),
            Buffer("codes", loaded=n * k // 4, size=n * k // 4, streamed=True),
            Buffer("sums", stored=16 * n * groups, size=16 * n * groups, streamed=True),
        ],
        per=("weight", n * k),
    )
    return Case(name, run, [launch])


CASES = [
    gradient_case("codebook gradient, rows split", 512, 256, 512, "row", "float32"),
    gradient_case("codebook gradient, groups of 64", 256, 256, 512, 64, "float16"),
    gradient_case("codebook gradient, shared", 256, 256, 512, "tensor", "bfloat16"),
    gradient_case("codebook gradient, 1024 x 1024, 64 rows", 64, 1024, 1024, "row", "float16"),
    gradient_case("codebook gradient, odd", 37, 70, 112, "row", "float16", odd=True),
    latent_case("gradients of weight and codebook", 256, 256, 512, 32, "float32"),
    latent_case("gradients of weight and codebook, half precision", 256, 256, 512, "row", "bfloat16"),
    latent_case("gradients of weight and codebook, rows split", 1024, 64, 128, 64, "float16"),
    latent_case("gradient of the weight alone", 256, 256, 512, "row", "float16", bucket=False),
    assign_case("assign, by row", 256, 1024, "row"),
    assign_case("assign, shared", 256, 1024, "tensor"),
    assign_case("assign, odd", 37, 48, "row"),
    dequantize_case("dequantize, groups of 32", 256, 1024, 32, "float32"),
    dequantize_case("dequantize, groups of 128", 256, 1024, 128, "float16"),
    dequantize_case("dequantize, odd", 37, 48, "row", "bfloat16"),
    bucket_sum_case("bucket sums, by row", 256, 1024, None),
    bucket_sum_case("bucket sums, groups of 32", 256, 1024, 32),
    bucket_sum_case("bucket sums, groups of 128, odd", 11, 384, 128),
]

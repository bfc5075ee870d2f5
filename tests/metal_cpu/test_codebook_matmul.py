"""What only the Metal kernels of codebook_matmul have."""

from __future__ import annotations

import mlx.core as mx
import pytest

import ghost_native as gn
from ghost_native.reference.codebook_matmul import codebook_matmul_ref
from tests.metal_cpu.module import on_metal
from tests.operators import DTYPES
from tests.ops.codebook_operands import operands
from tests.tolerances import assert_close


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["tensor", "row", 64])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_pair_table_across_the_lanes(monkeypatch, dtype, per, rows):
    with on_metal():
        for n, k in [(33, 128), (35, 1088)]:
            (x, xr), (codes, words), (codebook, cr), _ = operands((rows,), n, k, per, dtype)
            monkeypatch.setenv("GHOST_NATIVE_PAIR_TABLE", "1")
            y = gn.codebook_matmul(x, codes, codebook)
            assert_close(y, codebook_matmul_ref(xr, words, cr), dtype)
            # The table's levels are of the type of x, but there is no table of groups.
            fine = codebook.astype(mx.float32) * 1.0001
            tabled = gn.codebook_matmul(x, codes, fine)
            mx.eval(tabled)
            monkeypatch.delenv("GHOST_NATIVE_PAIR_TABLE")
            rounds = per != 64 and dtype != "float32"
            assert mx.array_equal(tabled, gn.codebook_matmul(x, codes, fine.astype(x.dtype) if rounds else fine))


def test_same_bits_whatever_the_alignment():
    """Loads of 16 bytes and loads one by one feed the same sums."""
    with on_metal():
        for rows in (1, 4, 8, 20, 70):
            for transpose in (True, False):
                (x, _), (codes, _), (codebook, _), _ = operands((rows,), 48, 256, 64, transpose=transpose)
                y = gn.codebook_matmul(x, codes, codebook, transpose=transpose)
                apart = [mx.concatenate([mx.zeros((3,), a.dtype), a.reshape(-1)]) for a in (x, codes, codebook)]
                mx.eval(apart)
                x, codes, codebook = (a[3:].reshape(b.shape) for a, b in zip(apart, (x, codes, codebook), strict=True))
                assert mx.array_equal(gn.codebook_matmul(x, codes, codebook, transpose=transpose), y)


@pytest.mark.parametrize("rows", [1, 8, 40])
def test_long_sums(rows):
    """A float32 sum of thousands of products that were added one by one would be over the limit."""
    with on_metal():
        for n, k, transpose in [(24, 6208, True), (6208, 32, False)]:
            (x, xr), (codes, words), (codebook, cr), _ = operands((rows,), n, k, transpose=transpose)
            y = gn.codebook_matmul(x, codes, codebook, transpose=transpose)
            assert_close(y, codebook_matmul_ref(xr, words, cr, transpose=transpose))

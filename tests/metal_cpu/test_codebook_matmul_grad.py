"""What only the Metal kernels of the codebook gradients have."""

from __future__ import annotations

import mlx.core as mx
import pytest

import ghost_native as gn
from tests.metal_cpu.module import on_metal, recorded_launches
from tests.operators import DTYPES, vjp
from tests.ops.codebook_operands import latent_operands, moved


def gradients(x, weight, codebook, dy):
    return vjp(gn.codebook_matmul_latent, [x, weight, codebook], [dy])[1:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["tensor", "row", 64])
def test_same_bits_whatever_the_alignment(dtype, per):
    """Loads of 16 bytes and loads one by one feed the same sums."""
    operands = [a for a, _ in latent_operands((70,), 48, 256, per, dtype)]
    weight, codebook = operands[1:3]
    with on_metal():
        for a, b in zip(gradients(*operands), gradients(*map(moved, operands)), strict=True):
            assert mx.array_equal(a, b)
        codes = gn.codebook_assign(weight, codebook)
        assert mx.array_equal(gn.codebook_assign(moved(weight), moved(codebook)), codes)
        sums = gn.bucket_sum(weight, codes, 64)
        assert mx.array_equal(gn.bucket_sum(moved(weight), moved(codes), 64), sums)
        decoded = gn.codebook_dequantize(codes, codebook, DTYPES[dtype])
        assert mx.array_equal(gn.codebook_dequantize(moved(codes), moved(codebook), DTYPES[dtype]), decoded)


def test_one_pass_makes_both_gradients():
    (x, _), (weight, _), (codebook, _), (dy, _) = latent_operands((40,), 48, 128, 32)
    mx.eval(x, weight, codebook, dy)
    with recorded_launches() as launches:
        mx.eval(gradients(x, weight, codebook, dy))
    kernels = [launch.kernel for launch in launches]
    assert kernels.count("codebook_matmul_grad_tile_float32") == 1
    assert all(launch.report.ok for launch in launches), [launch.report.messages for launch in launches]


@pytest.mark.parametrize(("rows", "splits"), [(0, 1), (511, 1), (512, 2), (1100, 4)])
def test_few_tiles_split_the_summed_rows(rows, splits):
    (x, _), (weight, _), (codebook, _), (dy, _) = latent_operands((rows,), 48, 64)
    codes = gn.codebook_assign(weight, codebook)
    mx.eval(x, codes, codebook, dy)
    with recorded_launches() as launches:
        mx.eval(vjp(lambda c: gn.codebook_matmul(x, codes, c), [codebook], [dy]))
    [tile] = [launch for launch in launches if "grad_tile" in launch.kernel]
    assert tile.groups == (1, 1, splits)


@pytest.mark.parametrize(("rows", "splits"), [(1023, 1), (1024, 2), (1100, 2)])
def test_few_tiles_split_the_summed_rows_of_the_weight_too(rows, splits):
    (x, _), (weight, _), (codebook, _), (dy, _) = latent_operands((rows,), 35, 80)
    mx.eval(x, weight, codebook, dy)
    with recorded_launches() as launches:
        mx.eval(gradients(x, weight, codebook, dy))
    kernels = [launch.kernel for launch in launches]
    [tile] = [launch for launch in launches if "grad_tile" in launch.kernel]
    assert tile.groups == (2, 1, splits)
    assert ("codebook_matmul_n_sum_float32" in kernels) == (splits > 1)
    assert all(launch.report.ok for launch in launches), [launch.report.messages for launch in launches]

"""Codes and codebooks from weights and back."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.codebook_matmul import (
    bucket_sum_ref,
    codebook_assign_ref,
    codebook_dequantize_ref,
    pack_ref,
    unpack_ref,
)
from tests.operators import DTYPES, rounded, vjp
from tests.ops.codebook_operands import assert_codebook_gradient, latent_operands, moved
from tests.tolerances import assert_close, nrmse


@given(rows=st.integers(0, 5), words=st.integers(0, 20), seed=st.integers(0, 99))
def test_pack_and_unpack_are_inverse(rows, words, seed):
    r = np.random.default_rng(seed)
    codes = r.integers(0, 4, (rows, 16 * words)).astype(np.uint32)
    np.testing.assert_array_equal(unpack_ref(pack_ref(codes)), codes)
    packed = gn.codebook_assign(
        mx.array(codes.astype(np.float32)).reshape(rows, 16 * words), mx.arange(4).astype(mx.float32)
    )
    np.testing.assert_array_equal(np.array(packed), pack_ref(codes))
    back = gn.codebook_dequantize(packed, mx.arange(4).astype(mx.float32))
    np.testing.assert_array_equal(np.array(back), codes)


@pytest.mark.parametrize("per", ["tensor", "row", 32])
def test_assign_and_dequantize(isa, per):
    (_, _), (w, wr), (codebook, cr), _ = latent_operands((1,), 19, 96, per)
    words = codebook_assign_ref(wr, cr)
    codes = gn.codebook_assign(w, codebook)
    np.testing.assert_array_equal(np.array(codes), words)
    with gn.composed_form():
        np.testing.assert_array_equal(np.array(gn.codebook_assign(w, codebook)), words)
    for dtype in DTYPES:
        want = codebook_dequantize_ref(words, cr)
        assert_close(gn.codebook_dequantize(codes, codebook, DTYPES[dtype]), want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["tensor", "row", 32, 64, 128])
def test_assign_and_dequantize_of_all_forms(impl, dtype, per):
    """Also with a gradient, and a weight and codebooks that do not begin where memory does."""
    n, k = 35, 384 if isinstance(per, int) else 1040
    (_, _), (w, wr), (codebook, cr), (dw, dwr) = latent_operands((k,), n, k, per)
    w, codebook = moved(w), moved(codebook)
    words = codebook_assign_ref(wr, cr)
    codes = gn.codebook_assign(w, codebook)
    np.testing.assert_array_equal(np.array(codes), words)
    dw, dwr = dw.T.astype(DTYPES[dtype]), np.array(dw.T.astype(DTYPES[dtype]).astype(mx.float32))

    def fn(codebook):
        return gn.codebook_dequantize(codes, codebook, DTYPES[dtype])

    weight = fn(codebook)
    assert weight.dtype == DTYPES[dtype]
    exact = codebook_dequantize_ref(words, cr).astype(np.float32)
    assert mx.array_equal(weight, mx.array(exact).astype(DTYPES[dtype]))
    sums = bucket_sum_ref(dwr, words, 1 if per == "tensor" else codebook.shape[1])
    assert_codebook_gradient(
        vjp(fn, [codebook], [dw])[0], sums.sum((0, 1)) if per == "tensor" else sums, dwr, "float32"
    )


@pytest.mark.parametrize(("n", "k"), [(0, 32), (3, 0), (0, 0)])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_empty_conversions(impl, n, k, per):
    (_, _), (w, _), (codebook, _), _ = latent_operands((1,), n, k, per)
    codes = gn.codebook_assign(w, codebook)
    assert codes.shape == (n, k // 16)
    assert gn.codebook_dequantize(codes, codebook, mx.float16).shape == (n, k)
    assert mx.array_equal(gn.bucket_sum(w, codes), mx.zeros((n, 1, 4)))
    (gradient,) = vjp(lambda c: gn.codebook_dequantize(codes, c), [codebook], [w])
    assert mx.array_equal(gradient, mx.zeros(codebook.shape))


@pytest.mark.parametrize("per", ["tensor", "row", 32])
def test_transforms_of_conversions(impl, per):
    (_, _), (w, _), (codebook, _), (dw, _) = latent_operands((64,), 9, 64, per)
    codes = gn.codebook_assign(w, codebook)
    group_size = per if isinstance(per, int) else None
    dw = dw.T

    def decode(codes, codebook):
        return gn.codebook_dequantize(codes, codebook, mx.float16)

    def sums(dw, codes):
        return gn.bucket_sum(dw, codes, group_size)

    for fn, args in [(decode, (codes, codebook)), (sums, (dw, codes))]:
        out = fn(*args)
        assert mx.array_equal(mx.compile(fn)(*args), out)
        if per == "tensor" or fn is sums:
            shapeless = mx.compile(fn, shapeless=True)
            assert mx.array_equal(shapeless(*args), out)
            longer = [mx.concatenate([a, a])[1:] if a.ndim == 2 else a for a in args]
            assert mx.array_equal(shapeless(*longer), fn(*longer))

    books = mx.stack([codebook, 2 * codebook])
    mapped = mx.vmap(decode, in_axes=(None, 0))(codes, books)
    assert mx.array_equal(mapped, mx.stack([decode(codes, c) for c in books]))
    mapped = mx.vmap(sums, in_axes=(0, None))(mx.stack([dw, w]), codes)
    assert_close(mapped, mx.stack([sums(dw, codes), sums(w, codes)]))

    _, (dot,) = mx.jvp(lambda c: decode(codes, c), [codebook], [2 * codebook])
    assert mx.array_equal(dot, 2 * decode(codes, codebook))
    _, (dot,) = mx.jvp(lambda v: sums(v, codes), [dw], [2 * dw])
    assert_close(dot, 2 * sums(dw, codes))
    cotangent = mx.broadcast_to(codebook, (9, 1, 4)) if per == "tensor" else codebook
    (back,) = vjp(lambda v: sums(v, codes), [dw], [cotangent])
    assert mx.array_equal(back, gn.codebook_dequantize(codes, codebook))

    # Of gradients: the sum of squares of the levels' gradients.
    def squares(c):
        return (decode(codes, c).astype(mx.float32) ** 2).sum()

    twice = mx.grad(lambda c: (mx.grad(squares)(c) * c).sum())(codebook)
    assert_close(twice, 2 * mx.grad(squares)(codebook), "float16")


def test_dtype_and_group_size_tell_conversions_apart(impl):
    (_, _), (w, _), (codebook, _), _ = latent_operands((1,), 5, 128)
    codes = gn.codebook_assign(w, codebook)

    def fn(w, codes, codebook):
        decoded = [gn.codebook_dequantize(codes, codebook, dtype) for dtype in DTYPES.values()]
        return decoded + [gn.bucket_sum(w, codes, size) for size in (None, 32, 64)]

    args = (w, codes, codebook)
    for got, want in zip(mx.compile(fn)(*args), fn(*args), strict=True):
        assert got.dtype == want.dtype and mx.array_equal(got, want)


def test_no_gradient_of_codes():
    codes, codebook = mx.zeros((3, 2), dtype=mx.uint32), mx.arange(4).astype(mx.float32)
    with pytest.raises(ValueError, match=r"\[codebook_dequantize\] no gradient with respect to codes"):
        mx.vjp(lambda q: [gn.codebook_dequantize(q, codebook)], [codes], [mx.ones((3, 32))])
    with pytest.raises(ValueError, match=r"\[bucket_sum\] no gradient with respect to codes"):
        mx.vjp(lambda q: [gn.bucket_sum(mx.ones((3, 32)), q)], [codes], [mx.ones((3, 1, 4))])


def test_assign_ties_and_nan_of_all_forms(impl):
    check_ties_and_nan()


def test_assign_ties_and_nan(isa):
    check_ties_and_nan()


def check_ties_and_nan():
    w = mx.array([[0.5, 1.5, 2.5, -9.0, 9.0, np.nan, 0.0, 3.0] * 2])
    levels = mx.array([0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(unpack_ref(np.array(gn.codebook_assign(w, levels))), [[0, 1, 2, 0, 3, 0, 0, 3] * 2])
    equal = gn.codebook_assign(w, mx.array([2.0, 2.0, 2.0, 1.0]))
    assert set(unpack_ref(np.array(equal)).ravel()) == {0, 3}


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bucket_sum(impl, group_size, dtype):
    check_bucket_sum(group_size, dtype)


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
def test_bucket_sum_every_instruction_set(isa, group_size):
    check_bucket_sum(group_size, "float32")


def check_bucket_sum(group_size, dtype):
    for n, k in [(7, 256), (11, 1664)]:
        dw, dwr = rounded(np.random.default_rng(3).standard_normal((n, k)), dtype)
        words = pack_ref(np.random.default_rng(4).integers(0, 4, (n, k)))
        sums = gn.bucket_sum(dw, mx.array(words), group_size)
        assert sums.dtype == mx.float32
        assert_close(sums, bucket_sum_ref(dwr, words, k // (group_size or k)))
        assert_close(sums.sum(axis=-1), dwr.reshape(n, -1, group_size or k).sum(-1))


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
def test_quantize_is_a_fixed_point(group_size):
    w = mx.array(np.random.default_rng(5).standard_normal((12, 256)), dtype=mx.float32)
    codes, codebook = gn.codebook_quantize(w, group_size, iterations=100)
    assert codebook.shape == (12, 256 // (group_size or 256), 4)
    assert mx.array_equal(codes, gn.codebook_assign(w, codebook))
    assert bool((codebook[..., 1:] >= codebook[..., :-1]).all())
    counts = gn.bucket_sum(mx.ones_like(w), codes, group_size)
    means = gn.bucket_sum(w, codes, group_size) / mx.maximum(counts, 1)
    assert_close(mx.where(counts > 0, means, codebook), codebook, "bfloat16")


def test_quantize_reaches_the_error_of_a_normal_distribution():
    """Max (1960): four levels leave 0.1175 of a normal distribution's variance."""
    w = mx.array(np.random.default_rng(6).standard_normal((64, 1024)), dtype=mx.float32)
    for per in ("row", "tensor"):
        codes, codebook = gn.codebook_quantize(3 * w + 1, per=per)
        error = float(mx.mean((gn.codebook_dequantize(codes, codebook) - (3 * w + 1)) ** 2)) / 9
        assert 0.11 < error < 0.119
    _, scales, biases = mx.quantize(w, bits=2, group_size=64)
    affine = mx.dequantize(mx.quantize(w, bits=2, group_size=64)[0], scales, biases, bits=2, group_size=64)
    codes, codebook = gn.codebook_quantize(w, 64)
    assert float(mx.mean((gn.codebook_dequantize(codes, codebook) - w) ** 2)) < 0.8 * float(mx.mean((affine - w) ** 2))


def test_quantize_odd_cases():
    codes, codebook = gn.codebook_quantize(mx.full((3, 32), 2.5))
    assert mx.array_equal(gn.codebook_dequantize(codes, codebook), mx.full((3, 32), 2.5))
    few = mx.array([[-1.0, 0.0, 1.0, 7.0] * 8])
    codes, codebook = gn.codebook_quantize(few)
    assert nrmse(gn.codebook_dequantize(codes, codebook), few) < 0.2
    for shape in [(0, 32), (3, 0)]:
        codes, codebook = gn.codebook_quantize(mx.zeros(shape))
        assert codes.shape == (shape[0], shape[1] // 16) and codebook.shape == (shape[0], 1, 4)


def test_assignment_has_no_gradient():
    (x, _), (w, _), (codebook, _), _ = latent_operands((4,), 9, 64)
    gradient = mx.grad(lambda w: gn.codebook_matmul(x, gn.codebook_assign(w, codebook), codebook).sum())(w)
    assert mx.array_equal(gradient, mx.zeros_like(w))

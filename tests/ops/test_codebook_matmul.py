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
    codebook_matmul_ref,
    codebook_matmul_vjp_ref,
    pack_ref,
    unpack_ref,
)
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse, to_numpy

MODES = ["float32", "bfloat16", "int8"]


def codebook_shape(n, k, per):
    return {"tensor": (4,), "row": (n, 1, 4)}.get(per) or (n, k // per, 4)


def operands(lead, n, k, per="row", dtype="float32", transpose=True, seed=0):
    """x, codes, codebook, dy as (mlx, reference) pairs; codes as words on both sides."""
    r = np.random.default_rng(seed)
    words = pack_ref(r.integers(0, 4, (n, k)))
    codebook = rounded(r.standard_normal(codebook_shape(n, k, per)), dtype)
    x = rounded(r.standard_normal((*lead, k if transpose else n)), dtype)
    dy = rounded(r.standard_normal((*lead, n if transpose else k)), dtype)
    return x, (mx.array(words), words), codebook, dy


def check(pairs, dtype="float32", transpose=True):
    (x, xr), (codes, words), (codebook, cr), (dy, dyr) = pairs

    def fn(x, codebook):
        return gn.codebook_matmul(x, codes, codebook, transpose=transpose)

    y = fn(x, codebook)
    assert y.dtype == x.dtype
    assert_close(y, codebook_matmul_ref(xr, words, cr, transpose=transpose), dtype, "y")
    dx, dcodebook, dweight = codebook_matmul_vjp_ref(xr, words, cr, dyr, transpose=transpose)
    got = vjp(fn, [x, codebook], [dy])
    assert got[0].dtype == x.dtype and got[1].dtype == codebook.dtype
    assert_close(got[0], dx, dtype, "dx")
    assert_codebook_gradient(got[1], dcodebook, dweight, dtype)


def assert_codebook_gradient(got, expected, dweight, dtype):
    """Four sums over a whole weight may cancel: they are compared with the magnitude of what is summed."""
    if expected.ndim == 3:
        assert_close(got, expected, dtype, "dcodebook")
    else:
        assert np.abs(to_numpy(got) - expected).max(initial=0) <= NRMSE[dtype] * 2 * np.linalg.norm(dweight)


def latent_operands(lead, n, k, per="row", dtype="float32", seed=0):
    r = np.random.default_rng(seed)
    x, dy = (rounded(r.standard_normal((*lead, size)), dtype) for size in (k, n))
    w = rounded(r.standard_normal((n, k)), "float32")
    levels = np.sort(r.standard_normal(codebook_shape(n, k, per)), axis=-1)
    return x, w, rounded(levels, "float32"), dy


def moved(a):
    """The same values three elements into an array's memory, where nothing is aligned to vectors."""
    longer = mx.concatenate([mx.zeros((3,), a.dtype), a.reshape(-1)])
    mx.eval(longer)
    return longer[3:].reshape(a.shape)


def check_latent(pairs, dtype="float32"):
    (x, xr), (w, wr), (codebook, cr), (dy, dyr) = pairs
    y = gn.codebook_matmul_latent(x, w, codebook)
    codes = gn.codebook_assign(w, codebook)
    words = codebook_assign_ref(wr, cr)
    np.testing.assert_array_equal(np.array(codes), words)
    assert mx.array_equal(y, gn.codebook_matmul(x, codes, codebook))
    dx, dcodebook, dweight = codebook_matmul_vjp_ref(xr, words, cr, dyr)
    got = vjp(gn.codebook_matmul_latent, [x, w, codebook], [dy])
    assert [g.dtype for g in got] == [x.dtype, mx.float32, mx.float32]
    assert_close(got[0], dx, dtype, "dx")
    assert_close(got[1], dweight, dtype, "dweight")
    assert_codebook_gradient(got[2], dcodebook, dweight, dtype)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("per", ["tensor", "row", 32])
def test_reference_vjp_matches_central_differences(per, transpose):
    (_, x), (_, words), (_, codebook), (_, dy) = operands((2,), 3, 64, per, transpose=transpose)

    def forward(values):
        return [codebook_matmul_ref(values[0], words, values[1], transpose=transpose)]

    numeric = central_differences(forward, [x, codebook], [dy])
    exact = codebook_matmul_vjp_ref(x, words, codebook, dy, transpose=transpose)
    for got, want in zip(numeric, exact[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("per", ["tensor", "row", 32, 64, 128])
@pytest.mark.parametrize(("lead", "n"), [((), 33), ((3,), 31), ((2, 9), 35)])
def test_matches_reference(impl, dtype, transpose, per, lead, n):
    check(operands(lead, n, 384, per, dtype, transpose), dtype, transpose)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [True, False])
def test_every_instruction_set(isa, dtype, transpose):
    for rows, n, k, per in [
        (1, 37, 16, "row"),
        (2, 9, 288, 32),
        (3, 21, 320, 64),
        (4, 38, 640, 128),
        (5, 33, 272, "tensor"),
        (16, 19, 2320, "row"),
        (29, 35, 640, 64),
        (31, 37, 288, "row"),
    ]:
        check(operands((rows,), n, k, per, dtype, transpose), dtype, transpose)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("per", ["row", 64])
def test_blocks_and_threads(rows, per):
    """Sizes over the blocks of every kernel: 1024 summed rows, 2048 columns, several tasks."""
    check(operands((rows,), 1200, 2240, per))
    check(operands((rows,), 1200, 2240, per, transpose=False), transpose=False)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize(("lead", "n", "k"), [((0,), 4, 32), ((3,), 0, 32), ((3,), 4, 0), ((2, 0), 3, 16), ((), 0, 16)])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_empty(impl, transpose, lead, n, k, per):
    check(operands(lead, n, k, per, transpose=transpose), transpose=transpose)


@pytest.mark.parametrize("activation", MODES)
@pytest.mark.parametrize("transpose", [True, False])
def test_activation_modes(isa, activation, transpose):
    """Each mode is exact arithmetic on rounded operands, whatever the instructions; and its error is as documented."""
    limit = {"float32": 1e-6, "bfloat16": 3.5e-3, "int8": 2e-2}[activation]
    for rows, n, k, per in [
        (1, 70, 560, "row"),
        (2, 66, 768, "tensor"),
        (3, 34, 640, 64),
        (7, 37, 272, "row"),
        (33, 21, 288, 32),
    ]:
        (x, xr), (codes, words), (codebook, cr), _ = operands((rows,), n, k, per, transpose=transpose)
        y = gn.codebook_matmul(x, codes, codebook, transpose=transpose, activation=activation)
        rounded_first = codebook_matmul_ref(xr, words, cr, transpose=transpose, activation=activation)
        assert_close(y, rounded_first, what=f"{activation} {rows} {per}")
        assert nrmse(y, codebook_matmul_ref(xr, words, cr, transpose=transpose)) < limit


@pytest.mark.parametrize("activation", MODES)
def test_activation_modes_of_all_forms(impl, activation):
    (x, xr), (codes, words), (codebook, cr), (dy, dyr) = operands((5,), 40, 64, 32, "bfloat16")
    y = gn.codebook_matmul(x, codes, codebook, activation=activation)
    assert_close(y, codebook_matmul_ref(xr, words, cr, activation=activation), "bfloat16")
    zeros = gn.codebook_matmul(mx.zeros_like(x), codes, mx.zeros_like(codebook), activation=activation)
    assert mx.array_equal(zeros, mx.zeros_like(y))
    if impl == "cpu":
        dx, _ = vjp(lambda x, c: gn.codebook_matmul(x, codes, c, activation=activation), [x, codebook], [dy])
        assert_close(dx, codebook_matmul_vjp_ref(xr, words, cr, dyr)[0], "bfloat16")


def test_infinite_level_does_not_leak_from_padding():
    for k in (16, 48, 272):
        words = pack_ref(np.full((5, k), 1))
        codebook = mx.array([np.inf, 2.0, 3.0, 4.0])
        for rows in (1, 4, 20):
            assert mx.array_equal(
                gn.codebook_matmul(mx.ones((rows, k)), mx.array(words), codebook), mx.full((rows, 5), 2.0 * k)
            )
        assert mx.array_equal(
            gn.codebook_matmul(mx.ones((5,)), mx.array(words), codebook, transpose=False), mx.full((k,), 10.0)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["tensor", "row", 32, 64, 128])
@pytest.mark.parametrize("lead", [(), (3,), (2, 21)])
def test_latent(impl, dtype, per, lead):
    check_latent(latent_operands(lead, 37, 256, per, dtype), dtype)


def test_latent_every_instruction_set(isa):
    check_latent(latent_operands((65,), 45, 272, "row"))
    check_latent(latent_operands((65,), 45, 384, 64))
    check_latent(latent_operands((4200,), 20, 32, "tensor"))  # deeper than one round of the gradient's sum


def test_latent_large_and_empty(impl):
    check_latent(latent_operands((300,), 530, 528, "row"))
    for lead, n, k in [((0,), 5, 32), ((3,), 0, 32), ((3,), 5, 0)]:
        for per in ("tensor", "row"):
            check_latent(latent_operands(lead, n, k, per))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("per", ["tensor", "row", 64])
def test_many_rows(impl, dtype, per):
    """So many that a kernel may sum them in several parts."""
    check(operands((1100,), 33, 192, per, dtype), dtype)
    check(operands((1100,), 33, 192, per, dtype, transpose=False), dtype, transpose=False)
    check_latent(latent_operands((1100,), 33, 192, per, dtype), dtype)


def test_latent_gradients_asked_for_one_by_one(impl):
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((6,), 9, 64)
    every = vjp(gn.codebook_matmul_latent, [x, w, codebook], [dy])
    primals = [x, w, codebook]
    for i in range(3):

        def only(value, i=i):
            return gn.codebook_matmul_latent(*(value if j == i else p for j, p in enumerate(primals)))

        assert mx.array_equal(vjp(only, [primals[i]], [dy])[0], every[i])


def test_half_precision_sum_would_fail():
    (_, x), (_, words), (_, codebook), _ = operands((8,), 30, 256, "row", "bfloat16")
    w = codebook_dequantize_ref(words, codebook)
    total = mx.zeros((8, 30), dtype=mx.bfloat16)
    for k in range(256):
        total = total + mx.array(np.outer(x[:, k], w[:, k]), dtype=mx.bfloat16)
    assert nrmse(total, codebook_matmul_ref(x, words, codebook)) > NRMSE["bfloat16"]


def test_wrong_code_order_and_masked_gradient_would_fail():
    (x, xr), (_, words), (codebook, cr), _ = operands((8,), 30, 64)
    reversed_words = pack_ref(unpack_ref(words).reshape(30, 4, 16)[:, :, ::-1].reshape(30, 64))
    y = gn.codebook_matmul(x, mx.array(reversed_words), codebook)
    assert nrmse(y, codebook_matmul_ref(xr, words, cr)) > 0.1

    (x, xr), (w, wr), (codebook, cr), (dy, dyr) = latent_operands((8,), 30, 64)
    dweight = codebook_matmul_vjp_ref(xr, codebook_assign_ref(wr, cr), cr, dyr)[2]
    masked = np.where((wr >= cr.min(-1)) & (wr <= cr.max(-1)), dweight, 0.0)
    assert nrmse(vjp(gn.codebook_matmul_latent, [x, w, codebook], [dy])[1], masked) > 0.1


def test_strided_and_broadcast_inputs(impl):
    r = np.random.default_rng(1)
    x = mx.array(r.standard_normal((2, 65, 40)), dtype=mx.float32).transpose(0, 2, 1)[:, ::2, 1:]
    words = pack_ref(r.integers(0, 4, (18, 128)))
    codes = mx.array(words)[::2, 2:6]
    codebook = mx.broadcast_to(mx.array(r.standard_normal((1, 1, 4)), dtype=mx.float32), (9, 2, 4))[:, :1]
    expected = codebook_matmul_ref(np.array(x), np.array(codes), np.array(codebook))
    assert_close(gn.codebook_matmul(x, codes, codebook), expected)
    assert_close(gn.codebook_matmul(x[:, :1], codes, codebook), expected[:, :1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["tensor", "row", 32])
@pytest.mark.parametrize("rows", [1, 9, 70])
def test_operands_that_begin_anywhere(impl, dtype, per, rows):
    for transpose in (True, False):
        pairs = operands((rows,), 48, 256, per, dtype, transpose=transpose)
        check([(moved(a), ref) for a, ref in pairs], dtype, transpose)
    check_latent([(moved(a), ref) for a, ref in latent_operands((rows,), 48, 256, per, dtype)], dtype)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_agrees_with_mlx_quantization(group_size):
    r = np.random.default_rng(2)
    w = mx.array(r.standard_normal((96, 256)), dtype=mx.float32)
    x = mx.array(r.standard_normal((5, 256)), dtype=mx.float32)
    codes, scales, biases = mx.quantize(w, bits=2, group_size=group_size)
    codebook = gn.codebook_from_affine(scales, biases)
    dense = mx.dequantize(codes, scales, biases, bits=2, group_size=group_size)
    assert_close(gn.codebook_dequantize(codes, codebook), dense, what="weight")
    y = mx.quantized_matmul(x, codes, scales, biases, bits=2, group_size=group_size)
    assert_close(gn.codebook_matmul(x, codes, codebook), y)
    z = mx.quantized_matmul(x[:, :96], codes, scales, biases, transpose=False, bits=2, group_size=group_size)
    assert_close(gn.codebook_matmul(x[:, :96], codes, codebook, transpose=False), z)


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


def test_same_bits_for_any_thread_count():
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((300,), 530, 528)
    codes = gn.codebook_assign(w, codebook)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        few = [gn.codebook_matmul(x[:3], codes, codebook, activation=mode) for mode in MODES]
        few.append(gn.codebook_matmul(dy[:3], codes, codebook, transpose=False))
        shared = vjp(lambda x, c: gn.codebook_matmul(x, codes, c), [x, codebook], [dy])
        results.append([*vjp(gn.codebook_matmul_latent, [x, w, codebook], [dy]), *few, *shared])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    for other in results[1:]:
        assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("transpose", [True, False])
def test_transforms(impl, transpose):
    (x, xr), (codes, words), (codebook, cr), (dy, dyr) = operands((4, 7), 9, 64, 32, transpose=transpose)

    def fn(x, codebook):
        return gn.codebook_matmul(x, codes, codebook, transpose=transpose)

    def ref(x, codebook):
        return codebook_matmul_ref(np.array(x), words, np.array(codebook), transpose=transpose)

    y = fn(x, codebook)
    assert mx.array_equal(mx.compile(fn)(x, codebook), y)
    shapeless = mx.compile(fn, shapeless=True)
    assert mx.array_equal(shapeless(x, codebook), y)
    longer = mx.concatenate([x, x], axis=0)[:, 1:]
    assert_close(shapeless(longer, codebook), ref(longer, codebook))

    assert_close(mx.vmap(fn, in_axes=(1, None))(x, codebook), np.moveaxis(ref(x, codebook), 1, 0))
    books = mx.stack([codebook, 2 * codebook, codebook + 1])
    assert_close(mx.vmap(fn, in_axes=(None, 0))(x, books), np.stack([ref(x, b) for b in books]))

    _, (dot,) = mx.jvp(fn, [x, codebook], [2 * x, codebook])
    assert_close(dot, 3 * ref(x, codebook))

    def inner(x, codebook):
        return (mx.grad(lambda x: (fn(x, codebook) * dy).sum())(x) * x).sum()

    dx, dcodebook, _ = codebook_matmul_vjp_ref(xr, words, cr, dyr, transpose=transpose)
    assert_close(mx.grad(inner, argnums=1)(x, codebook), dcodebook)
    assert_close(mx.grad(inner, argnums=0)(x, codebook), dx)
    # Through the gradient of the codebook.
    outer = mx.grad(lambda x: (mx.grad(lambda c: (fn(x, c) * dy).sum())(codebook) * codebook).sum())
    assert_close(outer(x), dx)


def test_latent_transforms(impl):
    (x, xr), (w, wr), (codebook, cr), (dy, dyr) = latent_operands((4, 7), 9, 64)
    fn = gn.codebook_matmul_latent
    y = fn(x, w, codebook)
    assert mx.array_equal(mx.compile(fn)(x, w, codebook), y)
    shapeless = mx.compile(fn, shapeless=True)
    assert mx.array_equal(shapeless(x, w, codebook), y)
    longer = mx.concatenate([x, x], axis=0)[:, 1:]
    assert mx.array_equal(shapeless(longer, w, codebook), fn(longer, w, codebook))
    assert_close(mx.vmap(fn, in_axes=(1, None, None))(x, w, codebook), np.moveaxis(np.array(y), 1, 0))
    mapped = mx.vmap(fn, in_axes=(None, 0, None))(x, mx.stack([w, w + 1]), codebook)
    assert_close(mapped, np.stack([np.array(fn(x, v, codebook)) for v in (w, w + 1)]))

    # The weight passes its tangent straight through.
    _, (dot,) = mx.jvp(lambda w: fn(x, w, codebook), [w], [w])
    assert_close(dot, xr @ wr.T)
    words = codebook_assign_ref(wr, cr)
    dx, _, _ = codebook_matmul_vjp_ref(xr, words, cr, dyr)
    outer = mx.grad(lambda x: (mx.grad(lambda c: (fn(x, w, c) * dy).sum())(codebook) * codebook).sum())
    assert_close(outer(x), dx)
    compiled = mx.compile(lambda x, w, c: mx.grad(lambda w: (fn(x, w, c) * dy).sum())(w))
    assert_close(compiled(x, w, codebook), codebook_matmul_vjp_ref(xr, words, cr, dyr)[2])


def test_assignment_has_no_gradient():
    (x, _), (w, _), (codebook, _), _ = latent_operands((4,), 9, 64)
    gradient = mx.grad(lambda w: gn.codebook_matmul(x, gn.codebook_assign(w, codebook), codebook).sum())(w)
    assert mx.array_equal(gradient, mx.zeros_like(w))


def test_any_stream():
    (x, _), (codes, _), (codebook, _), _ = operands((3,), 9, 64)
    stream = mx.new_stream(mx.cpu)
    assert mx.array_equal(gn.codebook_matmul(x, codes, codebook, stream=stream), gn.codebook_matmul(x, codes, codebook))


CODES, ROW_BOOK = mx.zeros((3, 2), dtype=mx.uint32), mx.zeros((3, 1, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 31)), CODES, ROW_BOOK),
            r"\[codebook_matmul\] x has the wrong shape, given \(2, 31\), allowed: \(\.\.\., K\) with K = 32",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES, ROW_BOOK, transpose=False),
            r"x has the wrong shape, given \(2, 32\), allowed: \(\.\.\., N\) with N = 3",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES.astype(mx.int32), ROW_BOOK),
            r"codes has the wrong dtype, given int32, allowed: uint32",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES[0], ROW_BOOK),
            r"codes has the wrong shape, given \(2,\), allowed: \(N, K / 16\)",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES, mx.zeros((3, 4))),
            r"codebook has the wrong shape, given \(3, 4\), allowed: \(4,\), \(N, 1, 4\)",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES, mx.zeros((3, 2, 4))),
            r"codebook has the wrong shape, given \(3, 2, 4\).*here N = 3 and K = 32",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES, ROW_BOOK.astype(mx.int32)),
            r"codebook has the wrong dtype, given int32",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32), dtype=mx.int32), CODES, ROW_BOOK),
            r"x has the wrong dtype, given int32",
        ),
        (
            lambda: gn.codebook_matmul(mx.zeros((2, 32)), CODES, ROW_BOOK, activation="int4"),
            r"unknown activation, given 'int4', allowed: 'float32', 'bfloat16', 'int8'",
        ),
        (
            lambda: gn.codebook_matmul_latent(mx.zeros((2, 20)), mx.zeros((3, 20)), mx.zeros((4,))),
            r"latent\] weight has the wrong shape, given \(3, 20\), allowed: \(N, K\) with K a multiple of 16",
        ),
        (
            lambda: gn.codebook_matmul_latent(mx.zeros((2, 16)), mx.zeros((3, 32)), mx.zeros((4,))),
            r"\[codebook_matmul_latent\] x has the wrong shape, given \(2, 16\)",
        ),
        (
            lambda: gn.codebook_assign(mx.zeros((3, 20)), mx.zeros((4,))),
            r"\[codebook_assign\] w has the wrong shape, given \(3, 20\)",
        ),
        (
            lambda: gn.codebook_dequantize(CODES, mx.zeros((5,))),
            r"\[codebook_dequantize\] codebook has the wrong shape, given \(5,\)",
        ),
        (
            lambda: gn.codebook_dequantize(CODES, ROW_BOOK, mx.int32),
            r"\[codebook_dequantize\] wrong dtype, given int32",
        ),
        (lambda: gn.bucket_sum(mx.zeros((3, 16)), CODES), r"\[bucket_sum\] dw has the wrong shape, given \(3, 16\)"),
        (lambda: gn.bucket_sum(mx.zeros((3, 32)), CODES, 64), r"\[bucket_sum\] wrong group_size, given 64 for K = 32"),
        (
            lambda: gn.codebook_from_affine(mx.zeros((3, 2)), mx.zeros((3, 1))),
            r"\[codebook_from_affine\] scales and biases have the wrong shapes, given \(3, 2\) and \(3, 1\)",
        ),
        (
            lambda: gn.codebook_quantize(mx.zeros((3, 20))),
            r"\[codebook_quantize\] w has the wrong shape, given \(3, 20\)",
        ),
        (
            lambda: gn.codebook_quantize(mx.zeros((3, 32)), 64),
            r"\[codebook_quantize\] wrong group_size, given 64 for K = 32",
        ),
        (
            lambda: gn.codebook_quantize(mx.zeros((3, 32)), 32, per="tensor"),
            r"\[codebook_quantize\] wrong per, given 'tensor' with group_size 32",
        ),
    ],
)
def test_malformed_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

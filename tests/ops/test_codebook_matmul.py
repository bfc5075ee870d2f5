from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from ghost_native.reference.codebook_matmul import (
    codebook_assign_ref,
    codebook_dequantize_ref,
    codebook_matmul_ref,
    codebook_matmul_vjp_ref,
    pack_ref,
    unpack_ref,
)
from tests.operators import DTYPES, central_differences, vjp
from tests.ops.codebook_operands import MODES, assert_codebook_gradient, latent_operands, moved, operands
from tests.tolerances import NRMSE, assert_close, nrmse


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("rows", [2, 4, 5, 8, 9, 17, 32, 33, 70])
def test_every_number_of_rows(impl, dtype, transpose, rows):
    """Either side of every change of kernel; columns that end inside a block, a chunk, or 64 codes."""
    for n, k, per in [(9, 16, "row"), (35, 48, "tensor"), (33, 272, "row"), (66, 288, 32), (13, 1088, 64)]:
        check(operands((rows,), n, k, per, dtype, transpose), dtype, transpose)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_sums_of_splits(impl, dtype, rows):
    for n, k, per in [(530, 64, "row"), (1030, 1040, "row"), (300, 576, 64)]:
        check(operands((rows,), n, k, per, dtype, transpose=False), dtype, transpose=False)


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


def test_infinite_level_does_not_leak_from_padding(impl):
    for k in (16, 48, 272):
        words = mx.array(pack_ref(np.full((5, k), 1)))
        codebook = mx.array([np.inf, 2.0, 3.0, 4.0])
        for rows in (1, 4, 20, 33):
            y = gn.codebook_matmul(mx.ones((rows, k)), words, codebook)
            assert mx.array_equal(y, mx.full((rows, 5), 2.0 * k))
            y = gn.codebook_matmul(mx.ones((rows, 5)), words, codebook, transpose=False)
            assert mx.array_equal(y, mx.full((rows, k), 10.0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_infinite_level_does_not_become_nan(impl, dtype):
    """A weight that is infinite makes its outputs infinite, though what pads it may be infinite times zero."""
    for k in (16, 48, 272):
        codes = np.full((37, k), 1)
        codes[28, -1] = 0
        words, codebook = mx.array(pack_ref(codes)), mx.array([np.inf, 2.0, 3.0, 4.0])
        for rows in (1, 4, 20, 33):
            x = mx.ones((rows, k), dtype=DTYPES[dtype])
            y = np.array(gn.codebook_matmul(x, words, codebook))
            np.testing.assert_array_equal(y[:, 28], np.inf)
            np.testing.assert_array_equal(np.delete(y, 28, axis=1), 2.0 * k)
            x = mx.ones((rows, 37), dtype=DTYPES[dtype])
            y = np.array(gn.codebook_matmul(x, words, codebook, transpose=False))
            np.testing.assert_array_equal(y[:, -1], np.inf)
            np.testing.assert_array_equal(y[:, :-1], 74.0)


@pytest.mark.parametrize("rows", [2, 4, 20, 33])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_stays_in_its_row(impl, rows, value):
    for k, transpose in [(16, True), (48, True), (272, True), (48, False)]:
        (x, xr), (codes, words), (codebook, cr), _ = operands((rows,), 37, k, transpose=transpose)
        x[1, -1] = value
        y = np.array(gn.codebook_matmul(x, codes, codebook, transpose=transpose))
        assert not np.isfinite(y[1]).any()
        expected = codebook_matmul_ref(xr, words, cr, transpose=transpose)
        assert_close(np.delete(y, 1, axis=0), np.delete(expected, 1, axis=0))


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


def test_infinite_gradients_stay_in_their_column_and_code(impl):
    (x, _), _, (codebook, _), (dy, _) = latent_operands((9,), 33, 48)
    x[4, 5] = np.inf
    codes = np.random.default_rng(0).integers(0, 4, (33, 48))
    codes[:, 5] = 2
    weight = mx.array(np.take_along_axis(np.array(codebook)[:, 0], codes, axis=1))
    for book in (codebook, mx.arange(4).astype(mx.float32)):
        if book.ndim == 1:
            weight = mx.array(codes.astype(np.float32))
        _, dweight, dcodebook = vjp(gn.codebook_matmul_latent, [x, weight, book], [dy])
        infinite = np.broadcast_to(np.arange(48) == 5, (33, 48))
        np.testing.assert_array_equal(~np.isfinite(np.array(dweight)), infinite)
        if impl != "composed":  # where the gradient of mx.where multiplies by the mask
            spread = ~np.isfinite(np.array(dcodebook)).reshape(-1, 4).all(0)
            np.testing.assert_array_equal(spread, np.arange(4) == 2)


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


@pytest.mark.parametrize("activation", ["float32", "bfloat16"])
def test_same_bits_of_tall_products_for_any_thread_count(activation):
    """The depth of the weight's gradient is split over tasks."""
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((2049,), 70, 96)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        run = partial(gn.codebook_matmul_latent, activation=activation)
        results.append([run(x, w, codebook), *vjp(run, [x, w, codebook], [dy])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    for other in results[1:]:
        assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_same_bits_for_any_thread_count():
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((300,), 530, 528)
    codes = gn.codebook_assign(w, codebook)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        few = [gn.codebook_matmul(x[:3], codes, codebook, activation=mode) for mode in MODES]
        few += [gn.codebook_matmul(x[:45], codes, codebook, activation=mode) for mode in MODES]
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

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.cross_entropy import cross_entropy_ref, cross_entropy_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse, to_numpy


def operands(rows, classes, dtype="float32", seed=0, scale=3.0):
    """logits and dloss as (mlx, float64) pairs, and targets of which some are no class."""
    r = np.random.default_rng(seed)
    targets = r.integers(-1, classes + 1, rows)
    logits = rounded(scale * r.standard_normal((*rows, classes)), dtype)
    return logits, rounded(r.standard_normal(rows), "float32"), targets


def check(rows, classes, dtype="float32", seed=0):
    (logits, lr), (dloss, dr), targets = operands(rows, classes, dtype, seed)
    t = mx.array(targets)

    def fn(logits):
        return gn.cross_entropy(logits, t)

    loss = fn(logits)
    assert loss.dtype == mx.float32 and loss.shape == rows
    # The loss is float32 whatever the logits are; only the gradient is rounded to their dtype.
    assert_close(loss, cross_entropy_ref(lr, targets), "float32", "loss")
    assert_close(vjp(fn, [logits], [dloss])[0], cross_entropy_vjp_ref(lr, targets, dr), dtype, "dlogits")


def test_reference_vjp_matches_central_differences():
    (_, logits), (_, dloss), _ = operands((5,), 4)
    targets = np.array([0, 3, -1, 2, 4])
    (numeric,) = central_differences(lambda v: [cross_entropy_ref(v[0], targets)], [logits], [dloss])
    np.testing.assert_allclose(numeric, cross_entropy_vjp_ref(logits, targets, dloss), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "classes"), [((2, 50), 33), ((131,), 31), ((30,), 32), ((3, 100), 256), ((2, 2), 1)])
def test_matches_reference(impl, dtype, rows, classes):
    check(rows, classes, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    for classes in (3, 16, 45, 255):
        check((70,), classes, dtype)


@pytest.mark.parametrize("rows", [(), (0,), (3, 0)])
def test_no_rows(impl, rows):
    check(rows, 7)


@given(rows=st.integers(0, 90), classes=st.integers(1, 70))
def test_any_shape(rows, classes):
    check((rows,), classes, seed=rows)


def test_large_logits(impl):
    """The maximum and the rest of logsumexp are kept apart, so that digits do not depend on the logits' size."""
    (_, lr), (dloss, dr), targets = operands((40,), 33)
    logits = mx.array(np.round(lr * 64) / 64 + 4096, dtype=mx.float32)

    def fn(logits):
        return gn.cross_entropy(logits, mx.array(targets))

    assert_close(fn(logits), cross_entropy_ref(to_numpy(logits), targets))
    assert_close(vjp(fn, [logits], [dloss])[0], cross_entropy_vjp_ref(to_numpy(logits), targets, dr))


@given(shift=st.floats(-1000, 1000), classes=st.integers(1, 40))
def test_shift_does_not_matter(shift, classes):
    (logits, _), _, targets = operands((9,), classes)
    a, b = gn.cross_entropy(logits, mx.array(targets)), gn.cross_entropy(logits + shift, mx.array(targets))
    np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-3)


def test_is_the_cross_entropy_of_mlx():
    (logits, _), _, targets = operands((50,), 31)
    t = mx.array(np.clip(targets, 0, 30))
    assert_close(gn.cross_entropy(logits, t), np.array(nn.losses.cross_entropy(logits, t)))


def test_ignored_targets(impl):
    logits = mx.random.normal((4, 5))
    t = mx.array([-1, 5, -100, 2])
    loss = gn.cross_entropy(logits, t)
    (d,) = vjp(lambda logits: gn.cross_entropy(logits, t), [logits], [mx.ones((4,))])
    assert loss.tolist()[:3] == [0, 0, 0] and loss[3].item() > 0
    assert mx.array_equal(d[:3], mx.zeros((3, 5))) and float(mx.abs(d[3]).min()) > 0


@pytest.mark.parametrize("kind", [mx.uint8, mx.int16, mx.uint32, mx.int64])
def test_target_dtypes(kind):
    (logits, lr), _, _ = operands((40,), 256)
    targets = np.arange(40) * 3
    assert_close(gn.cross_entropy(logits, mx.array(targets).astype(kind)), cross_entropy_ref(lr, targets))


def test_extremes(impl):
    logits = mx.array([[1e4, 0, -1e4], [-float("inf"), 0, 0], [3e38, -3e38, 0]])
    t = mx.array([0, 1, 0])
    loss = gn.cross_entropy(logits, t)
    (d,) = vjp(lambda logits: gn.cross_entropy(logits, t), [logits], [mx.ones((3,))])
    np.testing.assert_allclose(np.array(loss), [0, np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(np.array(d), [[0, 0, 0], [0, -0.5, 0.5], [0, 0, 0]], atol=1e-6)
    assert np.isnan(np.array(gn.cross_entropy(mx.full((1, 5), float("nan")), mx.array([1])))).all()


def test_confident_gradient_keeps_its_digits():
    """p - 1 of a p rounded to float16 would be a tenth off here."""
    logits, t = mx.array([[6.0, 0.0]], dtype=mx.float16), mx.array([0])
    (d,) = vjp(lambda logits: gn.cross_entropy(logits, t), [logits], [mx.ones((1,))])
    np.testing.assert_allclose(to_numpy(d), cross_entropy_vjp_ref([[6.0, 0.0]], [0], [1.0]), rtol=1e-3)


def test_strided_and_broadcast_inputs(impl):
    logits = mx.random.normal((2, 20, 40)).transpose(0, 2, 1)[:, ::2, 1:]
    t = mx.broadcast_to(mx.array([3]), (2, 20))
    assert_close(gn.cross_entropy(logits, t), cross_entropy_ref(np.array(logits), np.array(t)))


def test_half_precision_sum_would_fail():
    (logits, lr), _, targets = operands((64,), 256, "bfloat16")
    terms, total = mx.exp(logits - logits.max(-1, keepdims=True)), mx.zeros((64, 1), dtype=mx.bfloat16)
    for i in range(256):
        total = total + terms[:, i : i + 1]
    lse = mx.log(total) + logits.max(-1, keepdims=True)
    chosen = mx.take_along_axis(logits, mx.array(np.clip(targets, 0, 255))[:, None], -1)
    assert nrmse((lse - chosen)[:, 0], cross_entropy_ref(lr, np.clip(targets, 0, 255))) > NRMSE["bfloat16"]


def test_same_bits_for_any_thread_count():
    (logits, _), (dloss, _), targets = operands((300,), 256)
    t, results, before = mx.array(targets), [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.cross_entropy(logits, t), *vjp(lambda v: gn.cross_entropy(v, t), [logits], [dloss])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    (logits, lr), _, targets = operands((3, 4), 9)
    t = mx.array(targets)
    loss = gn.cross_entropy(logits, t)
    assert mx.array_equal(mx.compile(gn.cross_entropy)(logits, t), loss)
    shapeless = mx.compile(gn.cross_entropy, shapeless=True)
    assert mx.array_equal(shapeless(logits, t), loss)
    assert mx.array_equal(shapeless(logits[1:, :2], t[1:, :2]), loss[1:, :2])
    assert_close(mx.vmap(gn.cross_entropy)(logits, t), cross_entropy_ref(lr, targets))
    mapped = mx.vmap(mx.grad(lambda v, t: gn.cross_entropy(v, t).sum()))(logits, t)
    assert_close(mapped, cross_entropy_vjp_ref(lr, targets, np.ones((3, 4))))
    _, (dot,) = mx.jvp(lambda v: gn.cross_entropy(v, t), [logits], [mx.ones_like(logits)])
    np.testing.assert_allclose(np.array(dot), 0, atol=1e-6)
    second = mx.grad(lambda v: (mx.grad(lambda v: gn.cross_entropy(v, t).sum())(v) ** 2).sum())(logits)
    assert second.shape == logits.shape and bool(mx.isfinite(second).all())
    assert mx.array_equal(gn.cross_entropy(logits, t, stream=mx.new_stream(mx.cpu)), loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((mx.zeros((2, 3)), mx.array([1])), r"\[cross_entropy\] targets has the wrong shape, given \(1,\), allowed"),
        ((mx.zeros((2, 3)), mx.array([1.0, 2.0])), r"targets have the wrong dtype, given float32, allowed: integers"),
        ((mx.zeros((2, 0)), mx.array([1, 1])), r"logits have the wrong shape, given \(2, 0\), allowed: .*classes"),
        ((mx.zeros(()), mx.array(1)), r"logits have the wrong shape, given \(\)"),
        ((mx.zeros((2, 3), dtype=mx.int8), mx.array([1, 1])), r"logits has the wrong dtype, given int8"),
    ],
)  # fmt: skip
def test_malformed_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gn.cross_entropy(*arguments)

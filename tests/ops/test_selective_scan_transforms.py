"""State update and per-step states, transforms, threads, streams and malformed input of the selective scan."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.selective_scan import selective_scan_ref, selective_scan_vjp_ref
from tests.operators import DTYPES, rounded, vjp
from tests.ops.scan_operands import Operands
from tests.tolerances import assert_close

ROWS = {"u", "delta", "B", "C", "z"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ngroups", [None, 3])
def test_update_equals_scan(impl, isa, dtype, ngroups):
    x = Operands(2, 5, 33, 21, dtype=dtype, ngroups=ngroups)
    y, last = x.scan()
    state = x.arrays["initial_state"]
    for t in range(5):
        row = {n: x.arrays[n][:, t] if n in ROWS else x.arrays[n] for n in x.names if n != "initial_state"}
        yt, state = gn.selective_state_update(state, **row, delta_softplus=True)
        assert yt.dtype == x.arrays["u"].dtype and state.dtype == mx.float32
        assert_close(yt, y[:, t], dtype)
    assert_close(state, last)


def test_update_gradients(impl):
    x = Operands(3, 1, 33, 5)
    expected = selective_scan_vjp_ref(**x.refs, dy=x.dy_ref, dlast_state=x.dlast_ref, **x.options)
    row = {name: x.arrays[name][:, 0] if name in ROWS else x.arrays[name] for name in x.names}

    def update(*values):
        named = dict(zip(x.names, values, strict=True))
        return gn.selective_state_update(named.pop("initial_state"), **named, delta_softplus=True)

    for name, got in zip(x.names, vjp(update, list(row.values()), [x.dy[:, 0], x.dlast]), strict=True):
        want = getattr(expected, name)
        assert_close(got, want[:, 0] if name in ROWS else want, what=name)


@pytest.mark.parametrize("cu_seqlens", [None, [1, 4, 4, 9]])
@pytest.mark.parametrize("without", [[], ["initial_state", "D", "z", "delta_bias"]])
def test_states_equal_scan(impl, isa, cu_seqlens, without):
    x = Operands(2, 9, 19, 17, cu_seqlens=cu_seqlens, total=11, without=without)
    y, states = gn.selective_scan_states(**x.arrays, **x.native, return_output=True)
    assert mx.array_equal(gn.selective_scan_states(**x.arrays, **x.native), states)
    y_ref, last_ref, states_ref = selective_scan_ref(**x.refs, **x.options)
    assert_close(y, y_ref)
    assert_close(states, states_ref)
    if cu_seqlens is None:
        assert_close(states[:, -1], last_ref)


def test_states_gradients(impl):
    """The gradient of all states is that of a scan whose C picks one state at a time."""
    x = Operands(2, 6, 5, 3, without=["z", "D", "C"])
    weight, weight_ref = rounded(np.random.default_rng(2).standard_normal((2, 6, 5, 3)), "float32")
    C = mx.zeros_like(x.arrays["B"])

    def states(u, delta, A, B, bias, state):
        return gn.selective_scan_states(
            u, delta, A, B, C, delta_bias=bias, delta_softplus=True, initial_state=state
        )  # fmt: skip

    gradients = vjp(states, [x.arrays[name] for name in x.names], [weight])
    total: dict[str, Any] = dict.fromkeys(x.names, 0.0)
    zero = np.zeros_like(x.dlast_ref)
    for n in range(3):
        refs = dict(x.refs, C=np.broadcast_to(np.eye(3)[n], (2, 6, 3)))
        part = selective_scan_vjp_ref(**refs, dy=weight_ref[..., n], dlast_state=zero, **x.options)
        for name in x.names:
            total[name] = total[name] + getattr(part, name)
    for name, got in zip(x.names, gradients, strict=True):
        assert_close(got, total[name], what=name)


def test_same_bits_for_any_thread_count():
    cases = [
        Operands(3, 150, 300, 16),
        Operands(1, 100, 200, 3, ngroups=2, dtype="bfloat16"),
        Operands(0, 0, 70, 4, cu_seqlens=[0, *range(3, 120, 3), 300], total=301),
        Operands(64, 1, 96, 16),
    ]
    before = gn.num_threads()
    for x in cases:
        results = []
        for threads in (1, 2, 5):
            gn.set_num_threads(threads)
            results.append([*x.scan(), *x.gradients()])
            mx.eval(results[-1])
        gn.set_num_threads(before)
        for other in results[1:]:
            assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 20]])
def test_compile(cu_seqlens):
    x = Operands(2, 12, 9, 4, cu_seqlens=cu_seqlens, total=24)
    values = list(x.arrays.values())

    def fn(*values):
        return x.scan(*values)

    def gradients(*values):
        return vjp(fn, values, [x.dy, x.dlast])

    for f in (fn, gradients):
        for a, b in zip(f(*values), mx.compile(f)(*values), strict=True):
            assert mx.array_equal(a, b)


@pytest.mark.parametrize("ngroups", [None, 3])
def test_shapeless_compile(ngroups):
    x = Operands(2, 12, 9, 4, ngroups=ngroups)
    longer = Operands(3, 40, 9, 4, ngroups=ngroups)

    def loss(*values):
        y, last = x.scan(*values)
        return y.square().sum() + last.square().sum()

    for f in (lambda *v: x.scan(*v), mx.grad(loss, argnums=list(range(9)))):
        compiled = mx.compile(f, shapeless=True)
        for o in (x, longer):
            for a, b in zip(f(*o.arrays.values()), compiled(*o.arrays.values()), strict=True):
                assert_close(a, np.array(b))

    def update(*values):
        return gn.selective_state_update(values[-1], *values[:-1])

    compiled = mx.compile(update, shapeless=True)
    for o in (x, longer):
        row = [o.arrays[n][:, 0] if n in ROWS else o.arrays[n] for n in o.names]
        for a, b in zip(update(*row), compiled(*row), strict=True):
            assert mx.array_equal(a, b)


def test_vmap():
    x = Operands(2, 37, 9, 4)
    values = list(x.arrays.values())
    u = mx.stack([values[0], 2 * values[0], values[0] + 1])
    mapped = mx.vmap(lambda u: x.scan(u, *values[1:]))(u)
    single = [x.scan(v, *values[1:]) for v in u]
    for i in range(2):
        assert_close(mapped[i], np.stack([np.array(s[i]) for s in single]))

    def loss(u, B):
        y, last = x.scan(u, *values[1:3], B, *values[4:])
        return (y * x.dy).sum() + (last * x.dlast).sum()

    gradients = mx.vmap(mx.grad(loss, argnums=(0, 1)), in_axes=(0, None))(u, values[3])
    for i in range(2):
        expected = np.stack([np.array(mx.grad(loss, argnums=(0, 1))(v, values[3])[i]) for v in u])
        assert_close(gradients[i], expected)

    # The other way round: the gradient of a mapped function.
    summed = mx.grad(lambda u: mx.vmap(loss, in_axes=(0, None))(u, values[3]).sum())(u)
    assert_close(summed, np.array(gradients[0]))


def test_jvp_agrees_with_vjp():
    x = Operands(2, 37, 9, 4, ngroups=3)
    values = list(x.arrays.values())
    r = np.random.default_rng(7)
    tangents = [mx.array(r.standard_normal(v.shape), dtype=v.dtype) for v in values]
    _, dots = mx.jvp(lambda *v: list(x.scan(*v)), values, tangents)
    forward = (dots[0] * x.dy).sum() + (dots[1] * x.dlast).sum()
    backward = sum((g * t).sum() for g, t in zip(x.gradients(), tangents, strict=True))
    np.testing.assert_allclose(forward.item(), backward.item(), rtol=1e-4)


@pytest.mark.parametrize("cu_seqlens", [None, [0, 5, 5, 10]])
def test_second_order(cu_seqlens):
    """The fused gradient and the composed one have the same gradient."""
    x = Operands(2, 6, 5, 3, cu_seqlens=cu_seqlens, total=12)
    values = list(x.arrays.values())

    def penalty(*values):
        gradients = vjp(x.scan, values, [x.dy, x.dlast])
        return sum(g.square().sum() for g in gradients)

    second = mx.grad(penalty, argnums=list(range(9)))(*values)
    with gn.composed_form():
        expected = mx.grad(penalty, argnums=list(range(9)))(*values)
    for name, got, want in zip(x.names, second, expected, strict=True):
        assert_close(got, np.array(want), what=name)


def test_any_stream():
    x = Operands(2, 12, 9, 4)
    y, last = x.scan(stream=mx.new_stream(mx.cpu))
    mx.eval(y, last)
    assert mx.array_equal(y, x.scan()[0]) and mx.array_equal(last, x.scan()[1])


BHND = (2, 5, 4)
MALFORMED = [
    ({"u": mx.zeros((2, 5))}, r"u has the wrong shape, given \(2, 5\), allowed: \(batch, seqlen, dim\)"),
    ({"u": mx.zeros(BHND, dtype=mx.int32)}, r"u has the wrong dtype, given int32, allowed: float32"),
    ({"u": mx.zeros((2, 4, 5))}, r"u has the wrong shape, given \(2, 4, 5\)"),
    ({"delta": mx.zeros((2, 5, 1))}, r"delta has the wrong shape, given \(2, 5, 1\), allowed: the shape of u"),
    ({"delta": mx.zeros(BHND, dtype=mx.float16)}, r"delta has the wrong dtype, given float16, allowed: float32"),
    ({"z": mx.zeros((5, 4))}, r"z has the wrong shape, given \(5, 4\)"),
    ({"A": mx.zeros((4, 3), dtype=mx.complex64)}, r"A has the wrong dtype, given complex64"),
    ({"A": mx.zeros((4,))}, r"A has the wrong shape, given \(4,\), allowed: \(dim, dstate\) with dstate 1 to 256"),
    ({"A": mx.zeros((4, 257))}, r"A has the wrong shape, given \(4, 257\)"),
    ({"B": mx.zeros((2, 5, 2))}, r"B has the wrong shape, given \(2, 5, 2\), allowed: .*\(2, 5, 3\)"),
    ({"B": mx.zeros((2, 5, 3, 3))}, r"B has the wrong ngroups, given 3, allowed: a divisor of dim = 4"),
    ({"C": mx.zeros((2, 3, 5))}, r"C has the wrong shape, given \(2, 3, 5\)"),
    ({"C": mx.zeros((2, 5, 2, 3))}, r"C has the wrong shape, given \(2, 5, 2, 3\), allowed: that of B = \(2, 5, 3\)"),
    ({"D": mx.zeros((3,))}, r"D has the wrong shape, given \(3,\), allowed: \(dim,\) = \(4,\)"),
    ({"delta_bias": mx.zeros((4, 1))}, r"delta_bias has the wrong shape, given \(4, 1\)"),
    (
        {"initial_state": mx.zeros((2, 3, 4))},
        r"initial_state has the wrong shape, given \(2, 3, 4\), allowed: .*dstate",
    ),
    ({"cu_seqlens": mx.array([0, 2])}, r"u has the wrong shape, given \(2, 5, 4\), allowed: \(total, dim\)"),
    ({"cu_seqlens": mx.array([0.0, 2.0])}, r"cu_seqlens has the wrong dtype, given float32, allowed: int32"),
]


@pytest.mark.parametrize("operator", [gn.selective_scan, gn.selective_scan_states])
@pytest.mark.parametrize(("changes", "message"), MALFORMED)
def test_malformed_input(operator, changes, message):
    arguments = {name: mx.zeros(BHND) for name in ("u", "delta")} | {"A": mx.zeros((4, 3))}
    arguments |= {name: mx.zeros((2, 5, 3)) for name in ("B", "C")} | changes
    with pytest.raises(ValueError, match=rf"\[{operator.__name__}\] {message}"):
        operator(**arguments)


def test_malformed_update():
    row, state, A, B = mx.zeros((2, 4)), mx.zeros((2, 4, 3)), mx.zeros((4, 3)), mx.zeros((2, 3))
    with pytest.raises(ValueError, match=r"\[selective_state_update\] state has the wrong shape, given \(2, 3, 4\)"):
        gn.selective_state_update(state.reshape(2, 3, 4), row, row, A, B, B)
    with pytest.raises(ValueError, match=r"\[selective_state_update\] u has the wrong shape, given \(2, 1, 4\)"):
        gn.selective_state_update(state, row[:, None], row, A, B, B)


@pytest.mark.parametrize("operator", [gn.selective_scan, gn.selective_scan_states])
@given(cu_seqlens=st.lists(st.integers(-50, 90), min_size=1, max_size=6))
def test_malformed_boundaries_never_crash(impl, operator, cu_seqlens):
    x = Operands(0, 0, 3, 2, cu_seqlens=cu_seqlens, total=70)

    def fn(*values):
        return operator(**dict(zip(x.names, values, strict=True)), **x.native)

    y = fn(*x.arrays.values())
    mx.eval(y, vjp(fn, list(x.arrays.values()), [mx.ones_like(y)]))
    assert y.shape[:2] == (70, 3)

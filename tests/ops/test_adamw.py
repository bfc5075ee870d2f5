from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.adamw import adamw_update_ref
from tests.tolerances import assert_close, to_numpy

SETTINGS = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def lists(shapes, seed=0):
    """Parameters, gradients, m and v; gradients and m have one sign, so that no digits cancel."""
    r = np.random.default_rng(seed)
    draw = [[mx.array(r.standard_normal(s), dtype=mx.float32) for s in shapes] for _ in range(4)]
    p, g, m, v = draw
    return [p, [mx.abs(x) for x in g], [mx.abs(x) for x in m], [mx.square(x) for x in v]]


def check(shapes, seed=0):
    given_lists = lists(shapes, seed)
    expected = [
        adamw_update_ref(*(to_numpy(x[i]) for x in given_lists), 0.02, 3, scale=0.4, **SETTINGS)
        for i in range(len(shapes))
    ]
    got = gn.adamw_update(*given_lists, 0.02, 3, scale=0.4, **SETTINGS)
    for name, arrays, at in zip(("p", "m", "v"), got, range(3), strict=True):
        assert [x.shape for x in arrays] == [tuple(s) for s in shapes]
        for i, x in enumerate(arrays):
            assert_close(x, expected[i][at], what=f"{name}[{i}]")


@pytest.mark.parametrize("shapes", [[(5,)], [(31,), (3, 33), (), (2, 0)], [(40000,), (128, 257)], [(16384,), (16385,)]])
def test_matches_reference(impl, shapes):
    check(shapes)


def test_every_instruction_set(isa):
    check([(45,), (7, 9)])


@given(sizes=st.lists(st.integers(0, 70), min_size=1, max_size=4))
def test_any_sizes(sizes):
    check([(n,) for n in sizes], seed=len(sizes))


def test_gradients_known_to_be_zero(impl):
    """They are never made, and count like zeros that are."""
    p, g, m, v = lists([(33, 5), (40000,), ()])
    known = [mx.zeros_like(g[0]), g[1], mx.zeros_like(g[2])]
    made = [mx.array(np.array(x)) for x in known]
    for got, expected in zip(
        gn.adamw_update(p, known, m, v, 0.02, 3, **SETTINGS),
        gn.adamw_update(p, made, m, v, 0.02, 3, **SETTINGS),
        strict=True,
    ):
        assert all(mx.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert mx.array_equal(gn.global_norm(known), gn.global_norm(made))
    assert gn.global_norm(known[:1]).item() == 0
    # Moments are read whole, zero or not.
    zeros = [mx.zeros_like(x) for x in p]
    for x in gn.adamw_update(p, g, zeros, zeros, 0.02, 1)[1]:
        assert x.size == 0 or mx.all(x != 0)


def test_no_arrays():
    assert gn.adamw_update([], [], [], [], 0.1, 1) == ([], [], [])
    assert gn.global_norm([]).item() == 0


def test_is_the_adamw_of_mlx(impl):
    r = np.random.default_rng(1)
    weights = {"w": mx.array(r.standard_normal((9, 7)), dtype=mx.float32)}
    theirs = optim.AdamW(0.01, betas=[0.9, 0.99], eps=1e-8, weight_decay=0.05, bias_correction=True)
    p, m, v = [weights["w"]], [mx.zeros((9, 7))], [mx.zeros((9, 7))]
    for step in range(1, 6):
        g = mx.array(r.standard_normal((9, 7)), dtype=mx.float32)
        weights = theirs.apply_gradients({"w": g}, weights)
        p, m, v = gn.adamw_update(p, [g], m, v, 0.01, step, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    assert_close(p[0], np.array(weights["w"]))


def test_rates_may_be_arrays():
    arrays = lists([(50,)])
    a = gn.adamw_update(*arrays, 0.1, 2, scale=0.5)
    b = gn.adamw_update(*arrays, mx.array(0.1), mx.array(2), scale=mx.array([0.5]))
    assert all(mx.array_equal(x[0], y[0]) for x, y in zip(a, b, strict=True))


def test_old_arrays_stay_as_they_were():
    arrays = lists([(1000,)])
    before = [to_numpy(x[0]).copy() for x in arrays]
    first = gn.adamw_update(*arrays, 0.1, 1)
    mx.eval(first)
    assert all((to_numpy(x[0]) == b).all() for x, b in zip(arrays, before, strict=True))
    again = gn.adamw_update(*arrays, 0.1, 1)
    assert all(mx.array_equal(x[0], y[0]) for x, y in zip(first, again, strict=True))


def test_many_steps_in_place():
    """The memory of arrays that nobody holds is used again; the values do not suffer."""
    p, g, m, v = lists([(100,), (3, 5)])
    m, v = [x * 0 for x in m], [x * 0 for x in v]
    expected = [[to_numpy(x[i]) for x in (p, m, v)] for i in range(2)]
    gradients = [to_numpy(x) for x in g]
    for step in range(1, 20):
        p, m, v = gn.adamw_update(p, g, m, v, 0.01, step)
        mx.eval(p, m, v)
        expected = [list(adamw_update_ref(e[0], gradients[i], e[1], e[2], 0.01, step)) for i, e in enumerate(expected)]
    for i in range(2):
        assert_close(p[i], expected[i][0], "float16")  # rounding of nineteen float32 steps


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_global_norm(impl, dtype):
    arrays = [mx.random.normal(s).astype(dtype) for s in [(33,), (5, 57), (), (0, 3)]]
    expected = np.sqrt(sum((to_numpy(x) ** 2).sum() for x in arrays))
    assert_close(gn.global_norm(arrays), np.asarray(expected))


def test_global_norm_is_differentiable():
    x = mx.random.normal((7, 5))
    assert_close(mx.grad(lambda x: gn.global_norm([x, x]))(x), to_numpy(x) * np.sqrt(2) / np.linalg.norm(to_numpy(x)))


def test_same_bits_for_any_thread_count():
    arrays, results, before = lists([(100_000,), (31,), (257, 129)]), [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.global_norm(arrays[1]), *(x for new in gn.adamw_update(*arrays, 0.1, 1) for x in new)])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": []}, r"\[adamw_update\] the lists differ in length, given 1 parameters, 0 gradients"),
        (
            {"m": [mx.zeros((4,))]},
            r"\[adamw_update\] m has the wrong shape, given \(4,\), allowed: that",
        ),
        ({"v": [mx.zeros((3,), dtype=mx.float16)]}, r"v\[0\] has the wrong dtype, given float16, allowed: float32"),
        ({"betas": (0.9, 1.0)}, r"betas are out of range, given 0.9 and 1, allowed: \[0, 1\)"),
        ({"rate": mx.zeros((2,))}, r"rate has the wrong shape, given \(2,\), allowed: one element"),
    ],
)
def test_malformed_input(changes, message):
    zeros = [mx.zeros((3,))]
    arguments = {"parameters": zeros, "gradients": zeros, "m": zeros, "v": zeros, "rate": 0.1, "step": 1, **changes}
    with pytest.raises(ValueError, match=message):
        gn.adamw_update(**arguments)

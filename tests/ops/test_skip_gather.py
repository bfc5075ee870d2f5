from __future__ import annotations

from contextlib import nullcontext

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

import ghost_native as gn
from ghost_native.reference.skip_gather import (
    routing_plan_ref,
    skip_gather_ref,
    skip_gather_vjp_ref,
    skip_scatter_ref,
    skip_scatter_vjp_ref,
)
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse, to_numpy


def plan_of(indices, total):
    """A plan with given indices, well formed or not."""
    indices = mx.array(np.asarray(indices, np.int32))
    return gn.RoutingPlan(indices, mx.array([0, indices.size], dtype=mx.int32), mx.array(indices.size), total)


def operands(batch, seqlen, dim, dtype="float32", fraction=0.4, seed=0, extra=0):
    """mask, indices (with `extra` padding), and x, y, gate, dout, dgathered as (mlx, float64) pairs."""
    r = np.random.default_rng(seed)
    mask = r.random((batch, seqlen)) < fraction
    indices = np.append(np.flatnonzero(mask), np.full(extra, mask.size)).astype(np.int32)
    n = len(indices)
    shapes = [(batch, seqlen, dim), (n, dim), (n,), (batch, seqlen, dim), (n, dim)]
    kinds = [dtype, dtype, "float32", dtype, dtype]
    return mask, indices, [rounded(r.standard_normal(s), k) for s, k in zip(shapes, kinds, strict=True)]


def check(batch, seqlen, dim, dtype="float32", **options):
    _, indices, pairs = operands(batch, seqlen, dim, dtype, **options)
    (x, xr), (y, yr), (gate, gr), (dout, doutr), (dg, dgr) = pairs
    plan = plan_of(indices, batch * seqlen)

    gathered = gn.skip_gather(x, plan)
    assert gathered.dtype == x.dtype and gathered.shape == (len(indices), dim)
    assert np.array_equal(to_numpy(gathered), skip_gather_ref(xr, indices))
    (dx,) = vjp(lambda x: gn.skip_gather(x, plan), [x], [dg])
    assert np.array_equal(to_numpy(dx), skip_gather_vjp_ref(xr, indices, dgr))

    out = gn.skip_scatter(x, y, plan)
    assert out.dtype == x.dtype and np.array_equal(to_numpy(out), skip_scatter_ref(xr, yr, indices))
    got = vjp(lambda x, y: gn.skip_scatter(x, y, plan), [x, y], [dout])
    for g, want in zip(got, skip_scatter_vjp_ref(xr, yr, indices, None, doutr), strict=False):
        assert np.array_equal(to_numpy(g), want)

    blended = gn.skip_scatter(x, y, plan, gate)
    assert_close(blended, skip_scatter_ref(xr, yr, indices, gr), dtype, "out")
    got = vjp(lambda x, y, g: gn.skip_scatter(x, y, plan, g), [x, y, gate], [dout])
    for name, g, want in zip(["dx", "dy", "dgate"], got, skip_scatter_vjp_ref(xr, yr, indices, gr, doutr), strict=True):
        assert_close(g, want, dtype, name)


def test_reference_vjp_matches_central_differences():
    _, indices, ((_, x), (_, y), (_, gate), (_, dout), (_, dg)) = operands(2, 5, 3, extra=1)
    (numeric,) = central_differences(lambda v: [skip_gather_ref(v[0], indices)], [x], [dg])
    np.testing.assert_allclose(numeric, skip_gather_vjp_ref(x, indices, dg), atol=1e-8)
    numeric = central_differences(lambda v: [skip_scatter_ref(v[0], v[1], indices, v[2])], [x, y, gate], [dout])
    for got, want in zip(numeric, skip_scatter_vjp_ref(x, y, indices, gate, dout), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)
    numeric = central_differences(lambda v: [skip_scatter_ref(v[0], v[1], indices)], [x, y], [dout])
    for got, want in zip(numeric, skip_scatter_vjp_ref(x, y, indices, None, dout)[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(2, 5, 33), (3, 131, 31), (1, 1, 32), (2, 300, 7), (1, 9, 1)])
def test_matches_reference(impl, dtype, batch, seqlen, dim):
    check(batch, seqlen, dim, dtype)
    check(batch, seqlen, dim, dtype, extra=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [3, 45, 64])
def test_every_instruction_set(isa, dtype, dim):
    check(2, 37, dim, dtype)


@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_empty(impl, batch, seqlen, dim):
    check(batch, seqlen, dim)
    check(batch, seqlen, dim, extra=2)


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_none_and_all_routed(impl, fraction):
    check(2, 9, 5, fraction=fraction)


def assert_plan(plan, want):
    indices, cu_seqlens, count = want
    assert plan.indices.dtype == mx.int32 and plan.cu_seqlens.dtype == mx.int32
    assert np.array_equal(np.array(plan.indices), indices)
    assert np.array_equal(np.array(plan.cu_seqlens), cu_seqlens)
    assert plan.count.shape == () and plan.count.item() == count


@pytest.mark.parametrize("capacity", [None, 0, 1, 40, 64, 6000])
@pytest.mark.parametrize("shape", [(4, 37), (2, 2500), (0, 3), (3, 0), (70,), (0,), (1, 40000)])
def test_plan_matches_reference(impl, shape, capacity):
    mask = np.random.default_rng(3).random(shape) < 0.3
    plan = gn.routing_plan(mx.array(mask), capacity=capacity)
    assert plan.total == mask.size
    assert_plan(plan, routing_plan_ref(mask, capacity=capacity))
    if capacity is not None:
        assert np.array_equal(np.array(plan.valid), np.array(plan.indices) < mask.size)


@pytest.mark.parametrize("capacity", [None, 64, 1600])
@pytest.mark.parametrize(
    "cu_seqlens", [[0, 900, 900, 1500], [7, 7, 1000, 1490], list(range(0, 1501, 20)), [1500, 1500], [520, 530, 530]]
)
def test_ragged_plan_matches_reference(impl, cu_seqlens, capacity):
    mask = np.random.default_rng(4).random(1503) < 0.4
    # A mask that begins where no vector load may.
    plan = gn.routing_plan(mx.array(mask)[3:], capacity=capacity, cu_seqlens=mx.array(cu_seqlens, dtype=mx.int32))
    assert_plan(plan, routing_plan_ref(mask[3:], capacity=capacity, cu_seqlens=np.array(cu_seqlens)))


@given(
    mask=st.lists(st.booleans(), max_size=70), cuts=st.lists(st.integers(0, 70), max_size=4),
    capacity=st.one_of(st.none(), st.integers(0, 80)), composed=st.booleans(),
)  # fmt: skip
def test_plan_is_flatnonzero(mask, cuts, capacity, composed):
    bounds = np.sort([min(c, len(mask)) for c in (*cuts, 0)])
    flat = np.array(mask, bool)
    for cu in (None, mx.array(bounds, dtype=mx.int32)):
        with gn.composed_form() if composed else nullcontext():
            plan = gn.routing_plan(mx.array(flat), capacity=capacity, cu_seqlens=cu)
        assert_plan(plan, routing_plan_ref(flat, capacity=capacity, cu_seqlens=None if cu is None else bounds))
    assert np.array_equal(routing_plan_ref(flat)[0], np.flatnonzero(flat))


def test_nested_plans_leave_out_padding(impl):
    r = np.random.default_rng(5)
    outer_mask, inner_mask = r.random((3, 20)) < 0.5, r.random(64) < 0.5
    outer = gn.routing_plan(mx.array(outer_mask), capacity=64)
    inner = gn.routing_plan(mx.array(inner_mask), capacity=64, cu_seqlens=outer.cu_seqlens)
    kept = inner_mask[: outer.count.item()]
    assert inner.count.item() == kept.sum()
    assert np.array_equal(np.array(inner.indices)[: kept.sum()], np.flatnonzero(kept))
    lengths = [kept[b:e].sum() for b, e in zip(outer.cu_seqlens.tolist(), outer.cu_seqlens.tolist()[1:], strict=False)]
    assert np.array_equal(np.diff(np.array(inner.cu_seqlens)), lengths)


@given(
    batch=st.integers(1, 3), seqlen=st.integers(0, 30), dim=st.integers(1, 20), seed=st.integers(0, 99),
    dtype=st.sampled_from(list(DTYPES)), capacity=st.one_of(st.none(), st.integers(0, 64)),
)  # fmt: skip
def test_scatter_of_gather_is_identity(batch, seqlen, dim, seed, dtype, capacity):
    mask, _, ((x, xr), *_) = operands(batch, seqlen, dim, dtype, seed=seed)
    plan = gn.routing_plan(mx.array(mask), capacity=capacity)
    rows = gn.skip_gather(x, plan)
    assert np.array_equal(to_numpy(gn.skip_scatter(x, rows, plan)), xr)
    assert np.array_equal(to_numpy(gn.skip_gather(gn.skip_scatter(x, rows + 1, plan), plan))[: plan.count.item()],
                          to_numpy(rows + 1)[: plan.count.item()])  # fmt: skip
    # Skipped rows keep their bits.
    out = to_numpy(gn.skip_scatter(x, rows * 3, plan, mx.full((rows.shape[0],), 0.3))).reshape(-1, dim)
    skipped = np.ones(mask.size, bool)
    skipped[[i for i in plan.indices.tolist() if i < mask.size]] = False
    assert np.array_equal(out[skipped], xr.reshape(-1, dim)[skipped])


def test_skipped_rows_keep_nan_and_signed_zero_bits(impl):
    bits = np.array([[0x7FC12345, 0x80000000, 0xFF800000], [0x3F800000, 0, 1]], np.uint32)
    x = mx.array(bits).view(mx.float32)
    for gate in (None, mx.array([0.5])):
        out = gn.skip_scatter(x, mx.ones((1, 3)), plan_of([1], 2), gate)
        assert np.array_equal(np.array(out.view(mx.uint32))[0], bits[0])


@given(indices=st.lists(st.integers(-40, 40), max_size=24), gated=st.booleans())
def test_malformed_plans_stay_inside(indices, gated):
    """Indices out of range, negative, repeated and out of order."""
    r = np.random.default_rng(len(indices))
    indices = np.array(indices, np.int64).astype(np.int32)
    indices[: len(indices) // 6] *= 50_000_000
    # Rows of one element: a gradient of the gate is then one product, not a sum that may cancel to nearly nothing.
    x, y, dout = (r.standard_normal(s).astype(np.float32) for s in [(2, 10, 1), (len(indices), 1), (2, 10, 1)])
    gate = r.random(len(indices)).astype(np.float32)
    plan = plan_of(indices, 20)
    assert_close(gn.skip_gather(mx.array(x), plan), skip_gather_ref(x, indices))
    (dx,) = vjp(lambda x: gn.skip_gather(x, plan), [mx.array(x)], [mx.array(y)])
    assert_close(dx, skip_gather_vjp_ref(x, indices, y))
    gates = [mx.array(gate)] if gated else []
    primals = [mx.array(x), mx.array(y), *gates]

    def fn(x, y, *gates):
        return gn.skip_scatter(x, y, plan, *gates)

    assert_close(fn(*primals), skip_scatter_ref(x, y, indices, gate if gated else None))
    expected = skip_scatter_vjp_ref(x, y, indices, gate if gated else None, dout)
    for got, want in zip(vjp(fn, primals, [mx.array(dout)]), expected, strict=False):
        assert_close(got, want)


@given(st.lists(st.integers(-5, 50), min_size=1, max_size=6), st.one_of(st.none(), st.integers(0, 30)))
def test_malformed_boundaries_stay_inside(cu_seqlens, capacity):
    mask = mx.random.uniform(shape=(20,)) < 0.5
    cu = mx.array(cu_seqlens, dtype=mx.int32)
    plan = gn.routing_plan(mask, capacity=capacity, cu_seqlens=cu)
    with gn.composed_form():
        composed = gn.routing_plan(mask, capacity=capacity, cu_seqlens=cu)
    for a, b in zip(plan[:3], composed[:3], strict=True):
        assert mx.array_equal(a, b)


def test_strided_and_broadcast_inputs(impl):
    r = np.random.default_rng(1)
    x = mx.array(r.standard_normal((2, 20, 40)), dtype=mx.float32).transpose(0, 2, 1)[:, ::2, 1:]
    mask = mx.array(r.random((20, 2)) < 0.5).T
    plan = gn.routing_plan(mask)
    assert_plan(plan, routing_plan_ref(np.array(mask)))
    y = mx.broadcast_to(mx.array(r.standard_normal((1, 19)), dtype=mx.float32), (plan.indices.size, 19))
    gate = mx.broadcast_to(mx.array(0.3), (plan.indices.size,))
    assert_close(gn.skip_gather(x, plan), skip_gather_ref(np.array(x), plan.indices))
    want = skip_scatter_ref(np.array(x), np.array(y), plan.indices, np.array(gate))
    assert_close(gn.skip_scatter(x, y, plan, gate), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_may_begin_anywhere(impl, dtype):
    """A slice that is contiguous and does not begin where a vector load may."""
    _, indices, pairs = operands(2, 20, 16, dtype)
    x, y, gate, dout, _ = [mx.concatenate([v.flatten()[:1], v.flatten()])[1:].reshape(v.shape) for v, _ in pairs]
    xr, yr, gr, doutr, _ = [ref for _, ref in pairs]
    plan = plan_of(indices, 40)
    assert np.array_equal(to_numpy(gn.skip_gather(x, plan)), skip_gather_ref(xr, indices))
    assert_close(gn.skip_scatter(x, y, plan, gate), skip_scatter_ref(xr, yr, indices, gr), dtype)
    got = vjp(lambda x, y, g: gn.skip_scatter(x, y, plan, g), [x, y, gate], [dout])
    for g, want in zip(got, skip_scatter_vjp_ref(xr, yr, indices, gr, doutr), strict=True):
        assert_close(g, want, dtype)


def test_reusing_memory_never_changes_what_others_hold(impl):
    """The scatter takes x's memory only when nobody else will look at it."""
    x = mx.random.normal((4, 50, 16))
    plan = gn.routing_plan(mx.random.uniform(shape=(4, 50)) < 0.5)
    y = mx.zeros((plan.indices.size, 16))
    doubled = x * 2
    mx.eval(doubled)
    kept = np.array(doubled)
    out = gn.skip_scatter(doubled, y, plan)
    also = gn.skip_scatter(x * 2, y, plan)
    shared = x * 2
    both = gn.skip_scatter(shared, y, plan) - shared
    del shared
    mx.eval(out, also, both)
    assert np.array_equal(np.array(doubled), kept)
    assert mx.array_equal(out, also)
    assert np.array_equal(np.array(both), np.array(out) - kept)


def test_mixed_dtypes():
    _, indices, ((x, xr), *_) = operands(2, 20, 9, "bfloat16")
    (y, yr), (gate, gr) = rounded(xr[0, : len(indices)] + 1, "bfloat16"), rounded(np.full(len(indices), 0.3), "float16")
    plan = plan_of(np.arange(len(yr)), 40)
    out = gn.skip_scatter(x, y.astype(mx.float32), plan, gate[: len(yr)])
    assert out.dtype == mx.bfloat16
    assert_close(out, skip_scatter_ref(xr, yr, np.arange(len(yr)), gr), "bfloat16")


def test_half_precision_blend_would_fail():
    _, indices, ((_, x), (_, y), (_, gate), *_) = operands(2, 64, 33, "bfloat16", fraction=1.1)
    rows, want = skip_gather_ref(x, indices), skip_scatter_ref(x, y, indices, gate)
    step = mx.array(y - rows, dtype=mx.bfloat16) * mx.array(gate, dtype=mx.bfloat16)[:, None]
    out = mx.array(x, dtype=mx.bfloat16).reshape(-1, 33)
    out[mx.array(indices)] = mx.array(rows, dtype=mx.bfloat16) + step
    assert nrmse(out.reshape(want.shape), want) > NRMSE["bfloat16"]


def test_wrong_order_would_fail():
    """Entries shifted by one row, as an off-by-one prefix sum would make them."""
    _, indices, ((x, xr), (y, yr), *_) = operands(2, 16, 8)
    shifted = plan_of(np.roll(indices, 1), 32)
    assert nrmse(gn.skip_scatter(x, y, shifted), skip_scatter_ref(xr, yr, indices)) > 100 * NRMSE["float32"]


def test_same_bits_for_any_thread_count():
    mask, _, ((x, _), (y, _), (gate, _), (dout, _), _) = operands(3, 900, 130)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        plan = gn.routing_plan(mx.array(mask))
        gradients = vjp(lambda x, y, g, p=plan: gn.skip_scatter(x, y, p, g), [x, y, gate], [dout])
        results.append([plan.indices, gn.skip_gather(x, plan), gn.skip_scatter(x, y, plan, gate), *gradients])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    for other in results[1:]:
        assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def layer(x, mask, capacity=None):
    """Route, work, gate, put back: everything that is differentiable at once."""
    plan = gn.routing_plan(mask, capacity=capacity)
    rows = gn.skip_gather(x, plan)
    return gn.skip_scatter(x, mx.tanh(rows) * 2, plan, mx.sigmoid(rows.mean(axis=1)))


def test_compile():
    mask, _, ((x, _), *_) = operands(2, 20, 9)
    mask = mx.array(mask)
    y = layer(x, mask)
    capacity = gn.bucketed_capacity(int(mask.sum()))
    assert_close(mx.compile(lambda x, m: layer(x, m, capacity))(x, mask), y)
    shapeless = mx.compile(lambda x, m: layer(x, m, capacity), shapeless=True)
    assert_close(shapeless(x, mask), y)
    longer, longer_mask = mx.concatenate([x, x])[:, 1:], mx.concatenate([mask, mask])[:, 1:]
    assert_close(shapeless(longer, longer_mask), layer(longer, longer_mask))

    def loss(x):
        return layer(x, x[..., 1] > 0, 64).square().sum()

    want = mx.grad(lambda x: layer(x, x[..., 1] > 0).square().sum())(x)
    assert_close(mx.grad(loss)(x), want)
    assert_close(mx.compile(mx.grad(loss))(x), want)
    with gn.composed_form():
        assert_close(mx.grad(loss)(x), want)


def test_plan_is_a_tree():
    """Plans go into and come out of compiled functions, as arguments and as captured values."""
    mask, _, ((x, _), *_) = operands(2, 20, 9)
    plan = gn.routing_plan(mx.array(mask), capacity=64)
    want = gn.skip_gather(x, plan)
    assert mx.array_equal(mx.compile(gn.skip_gather)(x, plan), want)
    assert mx.array_equal(mx.compile(lambda x: gn.skip_gather(x, plan))(x), want)
    returned = mx.compile(lambda m: gn.routing_plan(m, capacity=64))(mx.array(mask))
    assert isinstance(returned, gn.RoutingPlan) and returned.total == 40
    assert mx.array_equal(gn.skip_gather(x, returned), want)
    assert len(tree_flatten(plan)) == 4 and isinstance(tree_map(lambda v: v, plan), gn.RoutingPlan)
    assert mx.array_equal(mx.grad(lambda x, p: gn.skip_gather(x, p).sum())(x, plan), mx.array(mask)[..., None] + 0 * x)


def test_overflow_keeps_the_first_rows(impl):
    mask, _, ((x, _), *_) = operands(3, 40, 5, fraction=0.9)
    plan = gn.routing_plan(mx.array(mask), capacity=64)
    assert plan.count.item() == mask.sum() > 64 == plan.cu_seqlens[-1].item()
    assert np.array_equal(np.array(plan.indices), np.flatnonzero(mask)[:64])
    assert bool(plan.valid.all())
    out = gn.skip_scatter(x, gn.skip_gather(x, plan) + 1, plan)
    assert mx.array_equal(out[2], x[2])


def test_transforms():
    mask, indices, ((x, _), (y, _), (gate, _), *_) = operands(2, 12, 9, extra=2)
    plan = plan_of(indices, 24)
    stacked = mx.stack([x, 2 * x, x + 1])
    mapped = mx.vmap(lambda x: gn.skip_gather(x, plan))(stacked)
    assert mx.array_equal(mapped, mx.stack([gn.skip_gather(v, plan) for v in stacked]))
    mapped = mx.vmap(lambda x, y: gn.skip_scatter(x, y, plan, gate), in_axes=(0, None))(stacked, y)
    assert_close(mapped, np.stack([np.array(gn.skip_scatter(v, y, plan, gate)) for v in stacked]))
    masks = mx.array(np.stack([mask, ~mask]))
    plans = mx.vmap(lambda m: gn.routing_plan(m, capacity=20)[:3])(masks)
    for i in range(2):
        single = gn.routing_plan(masks[i], capacity=20)
        assert all(mx.array_equal(a[i], b) for a, b in zip(plans, single[:3], strict=True))
    gradients = mx.vmap(mx.grad(lambda x: layer(x, mx.array(mask), 20).square().sum()))(stacked)
    single = [np.array(mx.grad(lambda x: layer(x, mx.array(mask), 20).square().sum())(v)) for v in stacked]
    assert_close(gradients, np.stack(single))

    def fn(x):
        return layer(x, x[..., 1] > 0, 24)

    tangent = mx.ones_like(x)
    (value,), (dot,) = mx.jvp(fn, [x], [tangent])
    assert_close(value, np.array(fn(x)))
    step = 1e-3
    numeric = (np.array(fn(x + step * tangent)) - np.array(fn(x - step * tangent))) / (2 * step)
    np.testing.assert_allclose(np.array(dot), numeric, atol=3e-3)
    second = mx.grad(lambda x: mx.grad(lambda x: fn(x).square().sum())(x).sum())(x)
    assert second.shape == x.shape and bool(mx.isfinite(second).all())


def test_any_stream():
    mask, _, ((x, _), *_) = operands(2, 12, 9)
    stream = mx.new_stream(mx.cpu)
    plan = gn.routing_plan(mx.array(mask), capacity=24, stream=stream)
    y = gn.skip_gather(x, plan, stream=stream)
    out = gn.skip_scatter(x, y * 2, plan, stream=stream)
    assert mx.array_equal(out, gn.skip_scatter(x, 2 * gn.skip_gather(x, plan), plan))


@pytest.mark.parametrize(("count", "capacity"), [(0, 64), (1, 64), (64, 64), (65, 128), (1000, 1024)])
def test_bucketed_capacity(count, capacity):
    assert gn.bucketed_capacity(count) == capacity


X, PLAN = mx.zeros((2, 5, 4)), plan_of([1, 3], 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gn.routing_plan(mx.zeros((2, 5))), r"\[routing_plan\] mask has the wrong dtype, given float32"),
        (lambda: gn.routing_plan(mx.zeros((2, 5, 1)) > 0), r"mask has the wrong shape, given \(2, 5, 1\), allowed"),
        (lambda: gn.routing_plan(X[0] > 0, cu_seqlens=PLAN.cu_seqlens), r"given \(5, 4\), allowed: \(total,\) with cu"),
        (lambda: gn.routing_plan(X[0] > 0, capacity=-1), r"capacity is negative, given -1, allowed: 0 or more"),
        (lambda: gn.routing_plan(X[0, 0] > 0, cu_seqlens=mx.zeros((2,))), r"cu_seqlens has the wrong dtype"),
        (lambda: mx.compile(gn.routing_plan)(X[0] > 0), r"\[routing_plan\] the mask cannot be evaluated.*capacity"),
        (lambda: gn.skip_gather(X[0], PLAN), r"\[skip_gather\] x has the wrong number of rows.*given 5 rows"),
        (lambda: gn.skip_gather(X.astype(mx.int32), PLAN), r"\[skip_gather\] x has the wrong dtype, given int32"),
        (lambda: gn.skip_gather(mx.zeros((10,)), PLAN._replace(total=1)), r"x has the wrong shape, given \(10,\)"),
        (lambda: gn.skip_gather(X, PLAN._replace(indices=mx.zeros((2,)))), r"indices have the wrong dtype"),
        (lambda: gn.skip_gather(X, PLAN._replace(indices=mx.zeros((2, 1), dtype=mx.int32))), r"indices have the wrong"),
        (lambda: gn.skip_scatter(X, mx.zeros((3, 4)), PLAN), r"\[skip_scatter\] y has the wrong shape, given \(3, 4\)"),
        (lambda: gn.skip_scatter(X, mx.zeros((2, 4), dtype=mx.int32), PLAN), r"y has the wrong dtype, given int32"),
        (lambda: gn.skip_scatter(X, mx.zeros((2, 4)), PLAN, mx.zeros((2, 1))), r"gate has the wrong shape, given"),
        (lambda: gn.skip_scatter(X[0], mx.zeros((2, 4)), PLAN), r"\[skip_scatter\] x has the wrong number of rows"),
        (lambda: gn.bucketed_capacity(-1), r"\[bucketed_capacity\] count is negative, given -1"),
    ],
)  # fmt: skip
def test_malformed_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("capacity", [None, 8])
def test_gradients_pass_a_plan_made_from_what_is_differentiated(impl, capacity):
    """The mask, and so every index and boundary, depends on x; none of them has a gradient."""
    x, w = mx.random.normal((2, 9, 5)), mx.random.normal((5, 3))

    def loss(x: mx.array, w: mx.array) -> mx.array:
        plan = gn.routing_plan(x.sum(axis=-1) > 0, capacity=capacity)
        rows = gn.skip_gather(x, plan)
        mixed = gn.causal_conv1d(rows, w, cu_seqlens=plan.cu_seqlens)
        return gn.skip_scatter(x, mixed, plan).square().sum()

    dx, dw = mx.grad(loss, argnums=(0, 1))(x, w)
    assert bool(mx.isfinite(dx).all()) and float(mx.abs(dw).max()) > 0

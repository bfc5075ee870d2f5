from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.selective_scan import selective_scan_ref, selective_scan_vjp_ref
from tests.operators import DTYPES, central_differences, rounded
from tests.ops.scan_operands import NAMES, OPTIONAL, Operands, check
from tests.tolerances import NRMSE, assert_close, nrmse


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 7], [1, 4, 6]])
def test_reference_vjp_matches_central_differences(softplus, cu_seqlens):
    x = Operands(2, 5, 4, 3, ngroups=2, softplus=softplus, cu_seqlens=cu_seqlens, total=8)
    values = [x.refs[name] for name in NAMES]

    def forward(values):
        return selective_scan_ref(**dict(zip(NAMES, values, strict=True)), **x.options)[:2]

    numeric = central_differences(forward, values, [x.dy_ref, x.dlast_ref])
    exact = selective_scan_vjp_ref(**x.refs, dy=x.dy_ref, dlast_state=x.dlast_ref, **x.options)
    for name, got in zip(NAMES, numeric, strict=True):
        np.testing.assert_allclose(got, getattr(exact, name), rtol=2e-6, atol=1e-8, err_msg=name)


SHAPES = [(2, 33, 31, 16), (3, 100, 37, 8), (1, 32, 33, 4), (2, 31, 255, 1), (2, 70, 17, 17), (1, 1, 130, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "seqlen", "dim", "dstate"), [*SHAPES, (1, 3, 40, 256)])
def test_matches_reference(impl, dtype, batch, seqlen, dim, dstate):
    check(Operands(batch, seqlen, dim, dstate, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "seqlen", "dim", "dstate", "ngroups"), [(1, 512, 40, 16, None), (2, 530, 33, 20, 3)])
def test_long_sequences_of_few_channels(impl, dtype, batch, seqlen, dim, dstate, ngroups):
    """Where channels are too few to fill a GPU, sequences are cut into segments and those composed."""
    check(Operands(batch, seqlen, dim, dstate, ngroups=ngroups, dtype=dtype))
    check(Operands(batch, seqlen, dim, dstate, ngroups=ngroups, dtype=dtype, without=OPTIONAL))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    check(Operands(2, 69, 45, 16, dtype=dtype))
    check(Operands(1, 34, 54, 27, ngroups=3, softplus=False, dtype=dtype))
    check(Operands(3, 1, 67, 21, dtype=dtype))


@pytest.mark.parametrize("dstate", [1, 2, 3, 4, 8, 15, 16, 17, 31, 64])
def test_every_block_of_states(isa, dstate):
    check(Operands(1, 35, 37, dstate, seed=dstate))


@pytest.mark.parametrize("ngroups", [1, 2, 3, 6, 36])
def test_groups(impl, ngroups):
    check(Operands(2, 40, 36, 5, ngroups=ngroups))
    check(Operands(0, 0, 36, 5, ngroups=ngroups, cu_seqlens=[0, 33, 40], total=41))


@pytest.mark.parametrize("cu_seqlens", [[0, 4, 4, 5, 140], [0, 0], [0, 140], [2, 9, 130], [0, 32, 64, 97], [140, 140]])
def test_ragged(impl, cu_seqlens):
    x = Operands(0, 0, 19, 6, cu_seqlens=cu_seqlens, total=140)
    check(x)
    check(Operands(0, 0, 19, 6, cu_seqlens=cu_seqlens, total=140, without=["initial_state", "D", "z"]))
    begin, end = cu_seqlens[0], cu_seqlens[-1]
    outside = np.array([t for t in range(140) if t < begin or t >= end], int)
    y, _ = x.scan()
    for name, rows in [("y", y), *zip(x.names, x.gradients(), strict=True)]:
        if name in ("y", "u", "delta", "B", "C", "z") and len(outside):
            assert not np.array(rows)[outside].any(), f"{name} is not zero outside the sequences"


def test_many_ragged_sequences(impl):
    """More sequences than there are partial gradients of A."""
    lengths = np.random.default_rng(3).integers(0, 7, 90)
    cu_seqlens = [0, *(int(v) for v in np.cumsum(lengths))]
    check(Operands(0, 0, 21, 4, cu_seqlens=cu_seqlens, total=cu_seqlens[-1]))
    check(Operands(40, 3, 21, 4))


@pytest.mark.parametrize("absent", [*([name] for name in OPTIONAL), OPTIONAL])
@pytest.mark.parametrize("softplus", [False, True])
def test_optional_inputs(impl, absent, softplus):
    check(Operands(2, 36, 33, 5, softplus=softplus, without=absent))


@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(0, 4, 5), (2, 0, 5), (2, 4, 0), (0, 0, 0)])
def test_empty(impl, batch, seqlen, dim):
    check(Operands(batch, seqlen, dim, 3))
    check(Operands(batch, seqlen, dim, 3, without=["initial_state"]))


def test_no_rows_pass_the_state_on(impl):
    x = Operands(2, 0, 5, 3)
    assert mx.array_equal(x.scan()[1], x.arrays["initial_state"])
    assert mx.array_equal(x.gradients()[-1], x.dlast)


def test_strided_and_broadcast_inputs(impl):
    r = np.random.default_rng(1)
    u = mx.array(r.standard_normal((2, 20, 40)), dtype=mx.float32).transpose(0, 2, 1)[:, ::2, 1:]
    delta = mx.broadcast_to(mx.array(np.abs(r.standard_normal((1, 20, 1))), dtype=mx.float32), u.shape)
    A = mx.broadcast_to(-mx.arange(1, 4, dtype=mx.float32), (19, 3))
    B = mx.array(r.standard_normal((3, 2, 20)), dtype=mx.float32).transpose(1, 2, 0)
    y_ref, *_ = selective_scan_ref(*(np.array(v) for v in (u, delta, A, B, B)))
    assert_close(gn.selective_scan(u, delta, A, B, B), y_ref)


def test_operands_at_any_offset(impl):
    """Slices of a larger array begin where no vector load may."""
    x = Operands(2, 40, 32, 8)
    for name, value in x.arrays.items():
        x.arrays[name] = mx.concatenate([mx.zeros(1), value.reshape(-1)])[1:].reshape(value.shape)
    check(x)
    states = gn.selective_scan_states(**x.arrays, **x.native)
    assert_close(states, selective_scan_ref(**x.refs, **x.options)[2])


def test_half_precision_parameters(impl):
    """Parameters and states may be in half precision too: they are read as float32, gradients keep their dtype."""
    x = Operands(2, 9, 5, 3)
    for name in ("A", "B", "C", "D", "delta_bias", "initial_state"):
        x.arrays[name], x.refs[name] = rounded(x.refs[name], "bfloat16")
    y, last = x.scan()
    y_ref, last_ref, _ = selective_scan_ref(**x.refs, **x.options)
    assert_close(y, y_ref)
    assert_close(last, last_ref)
    assert [g.dtype for g in x.gradients()] == [x.arrays[name].dtype for name in x.names]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_state_would_fail(dtype):
    x = Operands(1, 64, 16, 4, dtype=dtype, without=["z"])
    ref = x.refs
    delta = np.log1p(np.exp(ref["delta"] + ref["delta_bias"]))[0]
    h, y = ref["initial_state"][0], []
    for t in range(64):
        h = np.exp(delta[t, :, None] * ref["A"]) * h + (delta[t] * ref["u"][0, t])[:, None] * ref["B"][0, t]
        h = rounded(h, dtype)[1]
        y.append((h * ref["C"][0, t]).sum(-1) + ref["D"] * ref["u"][0, t])
    exact = selective_scan_ref(**ref, **x.options)[0]
    assert nrmse(mx.array(np.array(y)[None]).astype(DTYPES[dtype]), exact) > NRMSE[dtype]


def test_dropped_chunk_carry_would_fail():
    """Neither direction may forget what crosses a chunk of 32 rows."""
    x = Operands(1, 64, 33, 4)
    y_ref, last_ref, _ = selective_scan_ref(**x.refs, **x.options)
    rows = {"u", "delta", "B", "C", "z"}
    late = [x.arrays[name][:, 32:] if name in rows else x.arrays[name] for name in x.names]
    late[-1] = mx.zeros_like(late[-1])
    y, last = x.scan(*late)
    assert nrmse(y, y_ref[:, 32:]) > 100 * NRMSE["float32"]
    assert nrmse(last, last_ref) > 100 * NRMSE["float32"]
    early = Operands(1, 64, 33, 4)
    exact = early.gradients()
    early.dy = early.dy * (mx.arange(64) < 32)[None, :, None]
    early.dlast = mx.zeros_like(early.dlast)
    for name, got, want in zip(x.names, early.gradients(), exact, strict=True):
        assert nrmse(got, want) > 100 * NRMSE["float32"], name


def test_strong_decays_stay_finite(impl):
    """Products of decays underflow within a few rows; nothing divides by them."""
    r = np.random.default_rng(5)
    x = Operands(1, 300, 9, 4)
    x.arrays["A"], x.refs["A"] = rounded(-np.exp(r.uniform(-8, 6, (9, 4))), "float32")
    x.arrays["delta"], x.refs["delta"] = rounded(r.uniform(-10, 30, (1, 300, 9)), "float32")
    check(x)
    for A in (-1e30, -2e38):  # the second times delta is past all floats
        x.arrays["A"] = mx.full((9, 4), A)
        for value in [*x.scan(), *x.gradients()]:
            assert bool(mx.isfinite(value).all())


def test_long_memory(impl):
    """Decays next to 1 over a long sequence: errors of the exponential would add up."""
    x = Operands(1, 2000, 8, 2, without=["z"])
    x.arrays["A"], x.refs["A"] = rounded(np.full((8, 2), -1e-3), "float32")
    x.arrays["u"], x.refs["u"] = rounded(np.abs(x.refs["u"]), "float32")
    x.arrays["B"], x.refs["B"] = rounded(np.abs(x.refs["B"]), "float32")
    check(x)


def test_softplus_is_linear_above_20(impl):
    x = Operands(1, 4, 40, 2, without=["delta_bias"])
    x.arrays["delta"], x.refs["delta"] = rounded(np.linspace(-30, 60, 160).reshape(1, 4, 40), "float32")
    check(x)


@settings(max_examples=40)
@given(seqlen=st.integers(0, 80), cut=st.integers(0, 80), dim=st.integers(1, 40), dstate=st.integers(1, 20))
def test_split_equals_whole(seqlen, cut, dim, dstate):
    cut = min(cut, seqlen)
    x = Operands(2, seqlen, dim, dstate, seed=seqlen)
    rows = {"u", "delta", "B", "C", "z"}

    def part(begin, end, state):
        values = [x.arrays[name][:, begin:end] if name in rows else x.arrays[name] for name in x.names]
        return x.scan(*values[:-1], state)

    y, last = x.scan()
    y0, middle = part(0, cut, x.arrays["initial_state"])
    y1, end = part(cut, seqlen, middle)
    assert_close(mx.concatenate([y0, y1], axis=1), y)
    assert_close(end, last)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_ragged_equals_one_by_one(lengths):
    cu_seqlens = [0, *(int(v) for v in np.cumsum(lengths))]
    x = Operands(0, 0, 7, 5, cu_seqlens=cu_seqlens, total=cu_seqlens[-1])
    y, last = x.scan()
    for b, (begin, end) in enumerate(pairwise(cu_seqlens)):
        one = {n: x.arrays[n][None, begin:end] if n in ("u", "delta", "B", "C", "z") else x.arrays[n] for n in x.names}
        one["initial_state"] = x.arrays["initial_state"][b : b + 1]
        y_b, last_b = gn.selective_scan(**one, delta_softplus=True, return_last_state=True)
        assert_close(y_b[0], y[begin:end])
        assert_close(last_b[0], last[b])


def test_causal():
    x = Operands(1, 50, 5, 4)
    changed = dict(x.arrays, u=x.arrays["u"].at[:, 37].add(1.0))
    before, after = x.scan()[0], x.scan(*changed.values())[0]
    assert mx.array_equal(before[:, :37], after[:, :37])
    assert all(not mx.array_equal(before[:, t], after[:, t]) for t in (37, 38, 49))

from __future__ import annotations

import numpy as np
import pytest

from ghost_native.reference.selective_scan import selective_scan_ref, selective_scan_vjp_ref
from tests.operators import DTYPES, central_differences
from tests.ops.scan_operands import NAMES, Operands, check


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "seqlen", "dim", "dstate"),
    [
        (2, 33, 31, 16),
        (3, 100, 37, 8),
        (1, 32, 33, 4),
        (2, 31, 255, 1),
        (2, 70, 17, 17),
        (1, 1, 130, 3),
        (1, 3, 40, 256),
    ],
)
def test_matches_reference(impl, dtype, batch, seqlen, dim, dstate):
    check(Operands(batch, seqlen, dim, dstate, dtype=dtype))

"""Random operands of the selective scan and the comparison with its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

import ghost_native as gn
from ghost_native.reference.selective_scan import selective_scan_ref, selective_scan_vjp_ref
from tests.operators import rounded, vjp
from tests.tolerances import assert_close

NAMES = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"]
OPTIONAL = NAMES[5:]


class Operands:
    """All inputs and cotangents, as MLX arrays and as the float64 values those have.

    Rows are in `dtype`; parameters and states stay float32, as in a model.
    """

    def __init__(
        self,
        batch: int,
        seqlen: int,
        dim: int,
        dstate: int,
        *,
        ngroups: int | None = None,
        dtype: str = "float32",
        softplus: bool = True,
        cu_seqlens: Sequence[int] | None = None,
        total: int = 0,
        without: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        r = np.random.default_rng(seed)
        self.dtype = dtype
        rows: tuple[int, ...] = (batch, seqlen) if cu_seqlens is None else (total,)
        batch = batch if cu_seqlens is None else len(cu_seqlens) - 1
        projection = (*rows, dstate) if ngroups is None else (*rows, ngroups, dstate)
        wide, state = (*rows, dim), (batch, dim, dstate)
        # With softplus steps are 0.05 to 1, without it their absolute values are.
        delta = r.standard_normal(wide) * 0.7 - 1.0
        pairs = {
            "u": rounded(r.standard_normal(wide), dtype),
            "delta": rounded(delta if softplus else np.abs(delta), dtype),
            "A": rounded(-np.exp(r.standard_normal((dim, dstate))), "float32"),
            "B": rounded(r.standard_normal(projection), "float32"),
            "C": rounded(r.standard_normal(projection), "float32"),
            "D": rounded(r.standard_normal(dim), "float32"),
            "z": rounded(r.standard_normal(wide), dtype),
            "delta_bias": rounded(0.1 * r.standard_normal(dim) + (0.0 if softplus else 0.5), "float32"),
            "initial_state": rounded(r.standard_normal(state), "float32"),
        }
        for name in without:
            del pairs[name]
        self.names = [name for name in NAMES if name in pairs]
        self.arrays = {name: pairs[name][0] for name in self.names}
        self.refs: dict[str, Any] = {name: pairs[name][1] if name in pairs else None for name in NAMES}
        self.dy, self.dy_ref = rounded(r.standard_normal(wide), dtype)
        self.dlast, self.dlast_ref = rounded(r.standard_normal(state), "float32")
        self.options: dict[str, Any] = {"delta_softplus": softplus, "cu_seqlens": cu_seqlens}
        cu = None if cu_seqlens is None else mx.array(cu_seqlens, dtype=mx.int32)
        self.native: dict[str, Any] = {"delta_softplus": softplus, "cu_seqlens": cu}

    def scan(self, *values: mx.array, **options: Any) -> Any:
        """selective_scan of these operands, or of others in their place."""
        inputs = dict(zip(self.names, values, strict=True)) if values else self.arrays
        return gn.selective_scan(**inputs, **{"return_last_state": True, **self.native, **options})

    def gradients(self) -> list[mx.array]:
        return vjp(self.scan, [self.arrays[name] for name in self.names], [self.dy, self.dlast])


def check(x: Operands) -> None:
    """Results and all gradients agree with the reference."""
    y, last = x.scan()
    assert y.dtype == x.arrays["u"].dtype and last.dtype == mx.float32
    y_ref, last_ref, _ = selective_scan_ref(**x.refs, **x.options)
    assert_close(y, y_ref, x.dtype, "y")
    assert_close(last, last_ref, "float32", "last_state")
    expected = selective_scan_vjp_ref(**x.refs, dy=x.dy_ref, dlast_state=x.dlast_ref, **x.options)
    for name, gradient in zip(x.names, x.gradients(), strict=True):
        limit = x.dtype if name in ("u", "delta", "z") else "float32"
        assert gradient.dtype == x.arrays[name].dtype
        assert_close(gradient, getattr(expected, name), limit, f"gradient of {name}")

"""NumPy float64 reference of the selective scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float, spans_of


class ScanGradients(NamedTuple):
    """Gradients of all inputs; None for optional inputs that were absent."""

    u: Float
    delta: Float
    A: Float
    B: Float
    C: Float
    D: Float | None
    z: Float | None
    delta_bias: Float | None
    initial_state: Float | None


def _sigmoid(x: Float) -> Float:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _softplus(x: Float) -> Float:
    return np.where(x > 20.0, x, np.log1p(np.exp(np.minimum(x, 20.0))))


def _float(x: npt.ArrayLike) -> Float:
    return np.asarray(x, np.float64)


class _Operands:
    """The inputs as float64, rows flattened to (total, dim), B and C to (total, dim, dstate)."""

    def __init__(
        self,
        u: npt.ArrayLike,
        delta: npt.ArrayLike,
        A: npt.ArrayLike,
        B: npt.ArrayLike,
        C: npt.ArrayLike,
        D: npt.ArrayLike | None,
        z: npt.ArrayLike | None,
        delta_bias: npt.ArrayLike | None,
        delta_softplus: bool,
        initial_state: npt.ArrayLike | None,
        cu_seqlens: npt.ArrayLike | None,
    ) -> None:
        self.shape = _float(u).shape
        self.A = _float(A)
        dim, dstate = self.A.shape
        self.u, self.spans = spans_of(_float(u), cu_seqlens)
        total = len(self.u)
        self.bc_shape = _float(B).shape
        self.ngroups = self.bc_shape[-2] if len(self.bc_shape) > len(self.shape) else 1
        self.B, self.C = (
            np.repeat(_float(v).reshape(total, self.ngroups, dstate), dim // self.ngroups, axis=1) for v in (B, C)
        )
        self.pre = _float(delta).reshape(total, dim) + (0.0 if delta_bias is None else _float(delta_bias))
        self.softplus = delta_softplus
        self.delta = _softplus(self.pre) if delta_softplus else self.pre
        self.D = np.zeros(dim) if D is None else _float(D)
        self.z = None if z is None else _float(z).reshape(total, dim)
        shape = (len(self.spans), dim, dstate)
        self.state = np.zeros(shape) if initial_state is None else _float(initial_state)

    def states(self) -> Float:
        """h after every row, (total, dim, dstate), zero for rows of no sequence."""
        h = np.zeros((len(self.u), *self.A.shape))
        for b, (begin, end) in enumerate(self.spans):
            carry = self.state[b]
            for t in range(begin, end):
                carry = np.exp(self.delta[t, :, None] * self.A) * carry
                carry = carry + (self.delta[t] * self.u[t])[:, None] * self.B[t]
                h[t] = carry
        return h

    def ungated(self, h: Float) -> Float:
        y: Float = (h * self.C).sum(-1) + self.D * self.u
        return y

    def inside(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.u), bool)
        for begin, end in self.spans:
            mask[begin:end] = True
        return mask[:, None]

    def reduce_groups(self, x: Float) -> Float:
        total, dim, dstate = x.shape
        grouped = x.reshape(total, self.ngroups, dim // self.ngroups, dstate).sum(2)
        reduced: Float = grouped.reshape(self.bc_shape)
        return reduced


def selective_scan_ref(
    u: npt.ArrayLike,
    delta: npt.ArrayLike,
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    C: npt.ArrayLike,
    D: npt.ArrayLike | None = None,
    z: npt.ArrayLike | None = None,
    *,
    delta_bias: npt.ArrayLike | None = None,
    delta_softplus: bool = False,
    initial_state: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Float, Float, Float]:
    """y, last_state (batch, dim, dstate) and all states (rows, dim, dstate) of ``ghost_native.selective_scan``."""
    x = _Operands(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens)
    h = x.states()
    y = x.ungated(h)
    if x.z is not None:
        y = y * x.z * _sigmoid(x.z)
    last = x.state.copy()
    for b, (begin, end) in enumerate(x.spans):
        if end > begin:
            last[b] = h[end - 1]
    return (y * x.inside()).reshape(x.shape), last, h.reshape(*x.shape, x.A.shape[1])


def selective_scan_vjp_ref(
    u: npt.ArrayLike,
    delta: npt.ArrayLike,
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    C: npt.ArrayLike,
    D: npt.ArrayLike | None,
    z: npt.ArrayLike | None,
    dy: npt.ArrayLike,
    dlast_state: npt.ArrayLike,
    *,
    delta_bias: npt.ArrayLike | None = None,
    delta_softplus: bool = False,
    initial_state: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> ScanGradients:
    """Gradients for the cotangents of y and last_state."""
    x = _Operands(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens)
    h = x.states()
    g = _float(dy).reshape(x.u.shape) * x.inside()
    dz = None
    if x.z is not None:
        s = _sigmoid(x.z)
        dz = (g * x.ungated(h) * s * (1.0 + x.z * (1.0 - s))).reshape(x.shape)
        g = g * x.z * s
    du, ddelta, dA = g * x.D, np.zeros_like(x.u), np.zeros_like(x.A)
    dB, dC = np.zeros_like(h), g[:, :, None] * h
    dstate = _float(dlast_state).copy()
    for b, (begin, end) in enumerate(x.spans):
        q = dstate[b]
        for t in reversed(range(begin, end)):
            decay = np.exp(x.delta[t, :, None] * x.A)
            before = x.state[b] if t == begin else h[t - 1]
            p = g[t, :, None] * x.C[t] + q
            dB[t] = p * (x.delta[t] * x.u[t])[:, None]
            into_input = (p * x.B[t]).sum(-1)
            into_decay = p * decay * before
            du[t] += into_input * x.delta[t]
            ddelta[t] = into_input * x.u[t] + (into_decay * x.A).sum(-1)
            dA += into_decay * x.delta[t, :, None]
            q = p * decay
        dstate[b] = q
    if x.softplus:
        ddelta = ddelta * np.where(x.pre > 20.0, 1.0, _sigmoid(x.pre))
    return ScanGradients(
        u=du.reshape(x.shape),
        delta=ddelta.reshape(x.shape),
        A=dA,
        B=x.reduce_groups(dB),
        C=x.reduce_groups(dC),
        D=None if D is None else (g * x.u).sum(0),
        z=dz,
        delta_bias=None if delta_bias is None else ddelta.sum(0),
        initial_state=None if initial_state is None else dstate,
    )

"""The selective scan in PyTorch: what it has no operator for, in the forms people write."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def unbind_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """One step at a time on tensors taken apart beforehand, so that the backward pass is linear in seqlen."""
    dt = F.softplus(delta + delta_bias)
    decay = torch.exp(dt[..., None] * A).unbind(1)
    update = ((dt * u)[..., None] * B[:, :, None]).unbind(1)
    h, ys = torch.zeros_like(decay[0]), []
    for a, b, c in zip(decay, update, C.unbind(1), strict=True):
        h = a * h + b
        ys.append((h @ c[..., None])[..., 0])
    return torch.stack(ys, 1) + u * D


def mambapy_pscan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """mambapy's parallel scan over all states at once."""
    from mambapy.pscan import pscan

    dt = F.softplus(delta + delta_bias)
    decay = torch.exp(dt[..., None] * A)
    update = (dt * u)[..., None] * B[:, :, None]
    return (pscan(decay, update) @ C[..., None])[..., 0] + u * D


class _InPlace(torch.autograd.Function):
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] u[t] B[t], y[t] = h[t] C[t], with its backward pass written out.

    Works in a few reused buffers that stay in the cache instead of on tensors of all states; the states are kept for
    the backward pass only. Not differentiable in the initial state, nor through the last one.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, seqlen, dim = u.shape
        saving = any(ctx.needs_input_grad)
        states = u.new_empty(seqlen + 1 if saving else 2, batch, dim, A.shape[1])
        states[0] = initial
        decay, update, y = torch.empty_like(states[0]), torch.empty_like(states[0]), torch.empty_like(u)
        scaled = dt * u
        for t in range(seqlen):
            before, h = (states[t], states[t + 1]) if saving else (states[t % 2], states[(t + 1) % 2])
            torch.mul(dt[:, t, :, None], A, out=decay).exp_()
            torch.mul(scaled[:, t, :, None], B[:, t, None], out=update)
            torch.addcmul(update, decay, before, out=h)
            y[:, t] = torch.bmm(h, C[:, t, :, None])[..., 0]
        last = states[seqlen if saving else seqlen % 2].clone()
        ctx.save_for_backward(u, dt, A, B, C, states)
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, states = ctx.saved_tensors
        du, ddt, dA = torch.empty_like(u), torch.empty_like(u), torch.zeros_like(A)
        dB, dC = torch.empty_like(B), torch.empty_like(C)
        dh, decay, work = torch.zeros_like(states[0]), torch.empty_like(states[0]), torch.empty_like(states[0])
        scaled = dt * u
        for t in reversed(range(u.shape[1])):
            dC[:, t] = torch.bmm(dy[:, t, None], states[t + 1])[:, 0]
            dh.addcmul_(dy[:, t, :, None], C[:, t, None])
            dscaled = torch.bmm(dh, B[:, t, :, None])[..., 0]
            dB[:, t] = torch.bmm(scaled[:, t, None], dh)[:, 0]
            torch.mul(dt[:, t, :, None], A, out=decay).exp_()
            dh.mul_(decay)
            torch.mul(dh, states[t], out=work)
            dA.add_((work * dt[:, t, :, None]).sum(0))
            ddt[:, t] = dscaled * u[:, t] + work.mul_(A).sum(-1)
            du[:, t] = dscaled * dt[:, t]
        return du, ddt, dA, dB, dC, None


def in_place_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """y like u and the last state, for step sizes dt > 0 and an initial state (batch, dim, dstate)."""
    y, last = _InPlace.apply(u, dt, A, B, C, initial)  # type: ignore[no-untyped-call]
    return y, last


def in_place(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """A loop in reused buffers with a backward pass by hand: the fastest form found that stays within PyTorch."""
    initial = u.new_zeros(u.shape[0], *A.shape)
    return in_place_scan(u, F.softplus(delta + delta_bias), A, B, C, initial)[0] + u * D

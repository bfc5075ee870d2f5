"""NumPy float64 references of the recurrences of a fact memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float

Ints = npt.NDArray[np.int64]


def _floats(*arrays: npt.ArrayLike) -> list[Float]:
    return [np.asarray(a, np.float64) for a in arrays]


def decayed_sum_ref(x: npt.ArrayLike, log_keep: npt.ArrayLike, initial: npt.ArrayLike) -> Float:
    """s[t] = exp(log_keep[t]) s[t-1] + x[t]; operands as in `ghost_native.decayed_sum`."""
    x, log_keep, state = _floats(x, log_keep, initial)
    y = np.empty_like(x)
    for t in range(x.shape[1]):
        state = np.exp(log_keep[:, t, None]) * state + x[:, t]
        y[:, t] = state
    return y


def decayed_sum_vjp_ref(
    x: npt.ArrayLike, log_keep: npt.ArrayLike, initial: npt.ArrayLike, dy: npt.ArrayLike
) -> tuple[Float, Float, Float]:
    """dx, dlog_keep, dinitial."""
    x, log_keep, initial, dy = _floats(x, log_keep, initial, dy)
    y = decayed_sum_ref(x, log_keep, initial)
    dx, dlog_keep, g = np.zeros_like(x), np.zeros_like(log_keep), np.zeros_like(initial)
    for t in reversed(range(x.shape[1])):
        dx[:, t] = dy[:, t] + g
        g = np.exp(log_keep[:, t, None]) * dx[:, t]
        dlog_keep[:, t] = np.sum(g * (y[:, t - 1] if t else initial), axis=-1)
    return dx, dlog_keep, g


def began_ago_ref(start_logit: npt.ArrayLike, length: int, width: int) -> Float:
    """log P(the last start was exactly j bytes ago)."""
    (logit,) = _floats(start_logit)
    yes, no = -np.logaddexp(-logit, 0), -np.logaddexp(logit, 0)
    out = np.empty((logit.shape[0], length, width))
    for t in range(length):
        at = logit.shape[1] - length + t
        for j in range(width):
            out[:, t, j] = yes[:, at - j] + no[:, at - j + 1 : at + 1].sum(axis=1)
    return out


def began_ago_vjp_ref(start_logit: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dstart_logit."""
    logit, dy = _floats(start_logit, dy)
    _, length, width = dy.shape
    p, d = 1 / (1 + np.exp(-logit)), np.zeros_like(logit)
    for t in range(length):
        at = logit.shape[1] - length + t
        for j in range(width):
            d[:, at - j] += (1 - p[:, at - j]) * dy[:, t, j]
            d[:, at - j + 1 : at + 1] -= p[:, at - j + 1 : at + 1] * dy[:, t, j, None]
    return d


def last_events_ref(
    row: npt.ArrayLike,
    weight: npt.ArrayLike,
    log_keep: npt.ArrayLike,
    state_row: npt.ArrayLike,
    state_log: npt.ArrayLike,
    state_age: npt.ArrayLike,
) -> tuple[Ints, Float, Float]:
    """rows, log strengths and ages of the newest events; operands as in `ghost_native.last_events`."""
    events = np.asarray(row, np.int64)
    weight, log_keep, logs, ages = _floats(weight, log_keep, state_log, state_age)
    rows = np.asarray(state_row, np.int64)
    shape = (*events.shape, rows.shape[1])
    out: tuple[Any, ...] = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
    for b in range(shape[0]):
        slots = list(zip(rows[b].tolist(), logs[b].tolist(), ages[b].tolist(), strict=True))
        for t in range(shape[1]):
            slots = [(r, log + log_keep[b, t], age + 1) for r, log, age in slots]
            if events[b, t]:
                slots = [(int(events[b, t]), weight[b, t], 0.0), *slots[:-1]]
            for part, values in zip(out, zip(*slots, strict=True), strict=True):
                part[b, t] = values
    return out[0], out[1], out[2]


def last_events_vjp_ref(
    row: npt.ArrayLike, dlog: npt.ArrayLike, dage: npt.ArrayLike
) -> tuple[Float, Float, Float, Float]:
    """dweight, dlog_keep, dstate_log, dstate_age."""
    events = np.asarray(row, np.int64)
    dlog, dage = _floats(dlog, dage)
    batch, seqlen, slots = dlog.shape
    dweight, dkeep = np.zeros((batch, seqlen)), np.zeros((batch, seqlen))
    of_log, of_age = np.zeros((batch, slots)), np.zeros((batch, slots))
    for b in range(batch):
        for t in reversed(range(seqlen)):
            of_log[b] += dlog[b, t]
            of_age[b] += dage[b, t]
            if events[b, t]:
                dweight[b, t] = of_log[b, 0]
                of_log[b], of_age[b] = [*of_log[b, 1:], 0], [*of_age[b, 1:], 0]
            dkeep[b, t] = of_log[b].sum()
    return dweight, dkeep, of_log, of_age

"""Recurrences of `FactMemory` in chunked form: any seqlen, state in, state out, memory linear in seqlen.

Every exponent is a sum of log keep-gates, hence <= 0: nothing overflows, and no decay is ever divided out.
"""

from __future__ import annotations

import mlx.core as mx

_CHUNK = 32
_MASKED = -1e4


def decayed_sum(x: mx.array, log_keep: mx.array, initial: mx.array) -> mx.array:
    """s[t] = exp(log_keep[t]) * s[t-1] + x[t] for every t.

    Args:
        x: (batch, seqlen, dim).
        log_keep: (batch, seqlen), <= 0.
        initial: (batch, dim), s before the first byte.

    Returns:
        (batch, seqlen, dim). Differentiable in all three. Inside chunks of 32 it is a triangular matrix product, and
        the chunk ends form a sequence of the same kind, so the depth is logarithmic and the memory linear.
    """
    batch, seqlen, dim = x.shape
    if seqlen == 1:
        return x + mx.exp(log_keep)[..., None] * initial[:, None]
    if seqlen <= _CHUNK:
        total = mx.cumsum(log_keep, axis=1)
        lower = mx.tril(mx.ones((seqlen, seqlen), dtype=mx.bool_))
        decay = mx.exp(mx.where(lower, total[:, :, None] - total[:, None, :], _MASKED))
        return decay @ x + mx.exp(total)[..., None] * initial[:, None]
    chunks = -(-seqlen // _CHUNK)
    tail = chunks * _CHUNK - seqlen
    if tail:
        x, log_keep = mx.pad(x, [(0, 0), (0, tail), (0, 0)]), mx.pad(log_keep, [(0, 0), (0, tail)])
    keep = log_keep.reshape(batch, chunks, _CHUNK)
    local = decayed_sum(
        x.reshape(batch * chunks, _CHUNK, dim),
        keep.reshape(batch * chunks, _CHUNK),
        mx.zeros((batch * chunks, dim), dtype=x.dtype),
    ).reshape(batch, chunks, _CHUNK, dim)
    carry = decayed_sum(local[:, :, -1], mx.sum(keep, axis=-1), initial)
    before = mx.concatenate([initial[:, None], carry[:, :-1]], axis=1)
    out = local + mx.exp(mx.cumsum(keep, axis=-1))[..., None] * before[:, :, None]
    return out.reshape(batch, chunks * _CHUNK, dim)[:, :seqlen]


def sliding(history: mx.array, length: int, width: int) -> mx.array:
    """Windows into the past: out[:, t, j] = history[:, -length + t - j] for t < length, j < width.

    history: (batch, past + length, ...) with past >= width - 1; returns (batch, length, width, ...).
    """
    past = history.shape[1] - length
    index = (past + mx.arange(length))[:, None] - mx.arange(width)[None]
    return mx.take(history, index, axis=1)


def began_ago(start_logit: mx.array, length: int, width: int) -> mx.array:
    """log P(the last start was exactly j bytes ago), a counter that every byte moves on by one.

    Byte s is a start with probability sigmoid(start_logit[s]); a later start replaces an earlier one, so
    out[:, t, j] = log sigmoid(start[t-j]) + sum over t-j < s <= t of log(1 - sigmoid(start[s])).

    start_logit: (batch, past + length) with past >= width - 1; returns (batch, length, width).
    """
    window = sliding(start_logit, length, width)
    later = -mx.logaddexp(window, mx.array(0.0))
    return mx.cumsum(later, axis=-1) - later - mx.logaddexp(-window, mx.array(0.0))


def last_events(
    row: mx.array,
    weight: mx.array,
    log_keep: mx.array,
    state_row: mx.array,
    state_log: mx.array,
    state_age: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """The newest `slots` events at every byte, newest first, each fading with the keep gates since it happened.

    Args:
        row: (batch, seqlen) int32; nonzero is an event.
        weight: (batch, seqlen) log strength of an event at its own byte.
        log_keep: (batch, seqlen), <= 0; applied on every byte, also on the event's own byte for *older* events.
        state_row, state_log, state_age: (batch, slots) of the events before: row int32, log strength, age in bytes.

    Returns:
        rows int32, log strengths and ages (float32), each (batch, seqlen, slots).
    """
    batch, seqlen = row.shape
    slots = state_row.shape[1]
    total = mx.cumsum(log_keep, axis=1)
    # The old events stand, oldest first, in front of the text; position p >= slots is byte p - slots.
    rows = mx.concatenate([state_row[:, ::-1], row], axis=1)
    logs = mx.concatenate([state_log[:, ::-1], weight - total], axis=1)
    born = mx.concatenate([-state_age[:, ::-1] - 1.0, mx.broadcast_to(mx.arange(seqlen), row.shape)], axis=1)
    position = mx.broadcast_to(mx.arange(slots + seqlen, dtype=mx.int32), rows.shape)
    event = (rows != 0) | (position < slots)
    newest = mx.cummax(mx.where(event, position, 0), axis=1)
    before = mx.pad(newest[:, :-1], [(0, 0), (1, 0)])
    found = [newest[:, slots:]]
    for _ in range(slots - 1):
        found.append(mx.take_along_axis(before, found[-1], axis=1))
    index = mx.stop_gradient(mx.stack(found, axis=-1).reshape(batch, seqlen * slots))
    shape = (batch, seqlen, slots)
    log_strength = mx.take_along_axis(logs, index, axis=1).reshape(shape) + total[..., None]
    age = mx.arange(seqlen)[None, :, None] - mx.take_along_axis(born, index, axis=1).reshape(shape)
    return mx.take_along_axis(rows, index, axis=1).reshape(shape), log_strength, age

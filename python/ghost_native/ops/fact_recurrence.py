"""The recurrences of a fact memory: a decayed sum, a counter since the last start, the last few events."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext

StreamOrDevice = mx.Stream | mx.Device | None


def decayed_sum(x: mx.array, log_keep: mx.array, initial: mx.array, *, stream: StreamOrDevice = None) -> mx.array:
    """``s[t] = exp(log_keep[t]) * s[t-1] + x[t]`` for every t.

    Args:
        x: ``(batch, seqlen, dim)``; float32, float16 or bfloat16, as everything here. The arithmetic is float32.
        log_keep: ``(batch, seqlen)``, <= 0.
        initial: ``(batch, dim)``, s before the first byte.
        stream: where to run. GPUs compose it of matrix products over chunks of 32 bytes.

    Returns:
        ``(batch, seqlen, dim)`` float32.

    Differentiable in x, log_keep and initial.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    y: mx.array = _ext.decayed_sum(x, log_keep, initial, stream=stream)
    return y


def began_ago(start_logit: mx.array, length: int, width: int, *, stream: StreamOrDevice = None) -> mx.array:
    """log P(the last start was exactly j bytes ago), a counter that every byte moves on by one.

    Byte s is a start with probability ``sigmoid(start_logit[s])``; a later start replaces an earlier one, so
    ``out[:, t, j] = log sigmoid(start[t-j]) + sum over t-j < s <= t of log(1 - sigmoid(start[s]))``.

    Args:
        start_logit: ``(batch, past + length)`` with past >= width - 1; float32, float16 or bfloat16.
        length: bytes to count at, the last ones.
        width: bytes to count back.
        stream: where to run.

    Returns:
        ``(batch, length, width)`` float32.

    Differentiable in start_logit.

    Raises:
        ValueError: on a wrong shape or dtype.

    A recurrent form of the pointer of Vinyals et al., 2015, arXiv:1506.03134.
    """
    y: mx.array = _ext.began_ago(start_logit, length, width, stream=stream)
    return y


def last_events(
    row: mx.array,
    weight: mx.array,
    log_keep: mx.array,
    state_row: mx.array,
    state_log: mx.array,
    state_age: mx.array,
    *,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """The newest `slots` events at every byte, newest first, each fading with the keep gates since it happened.

    Args:
        row: ``(batch, seqlen)`` integer; nonzero is an event.
        weight: ``(batch, seqlen)`` log strength of an event at its own byte.
        log_keep: ``(batch, seqlen)``, <= 0; applied on every byte, also on the event's own byte for *older* events.
        state_row, state_log, state_age: ``(batch, slots)``, the events before: row, log strength, age in bytes.
        stream: where to run.

    Returns:
        rows int32, log strengths and ages float32, each ``(batch, seqlen, slots)``.

    Differentiable in weight, log_keep, state_log and state_age.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    rows, logs, ages = _ext.last_events(row, weight, log_keep, state_row, state_log, state_age, stream=stream)
    return rows, logs, ages

"""How a fact memory is addressed: which stored key was read, which facts are likely, which of their bytes is next."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext

StreamOrDevice = mx.Stream | mx.Device | None


def fact_match(
    folded: mx.array,
    keys: mx.array,
    key_length: mx.array,
    key_hash: mx.array,
    byte_hash: mx.array,
    word: mx.array,
    history: int,
    hash_base: int,
    *,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array]:
    """The longest key that ended right before each byte, with word boundaries on both sides.

    Args:
        folded: ``(batch, history + seqlen)`` integer bytes, 256 for "no byte"; the first columns are context only.
        keys: ``(rows, width)`` integer bytes, right-aligned, 256 on the left; width below history.
        key_length: ``(rows,)``; rows of length 0 match nothing.
        key_hash: ``(rows,)`` uint32, the polynomial hash of each key made odd.
        byte_hash: ``(257,)`` uint32, hashes of the bytes.
        word: ``(257,)``, nonzero for bytes of words, inside which no key begins or ends.
        history: number of leading columns.
        hash_base: odd base of the hash.
        stream: where to run.

    Returns:
        row and key length, ``(batch, seqlen)`` int32, both 0 where no key ended.

    Not differentiable. Candidates come from hashes of the text's last bytes, the longest of them is compared byte by
    byte (Karp and Rabin, 1987).

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    row, length = _ext.fact_match(
        folded, keys, key_length, key_hash, byte_hash, word, history, hash_base, stream=stream
    )
    return row, length


def fact_scores(
    bag: mx.array,
    keys: mx.array,
    key_length: mx.array,
    hit_row: mx.array,
    hit_log: mx.array,
    log_scale: mx.array,
    null_score: mx.array,
    top_k: int,
    *,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.array]:
    """Scores of all keys for every byte of a text, and the softmax over the null fact and the best `top_k` rows.

    With ``a = exp(log_scale)`` and ``n(x) = |x|^2 + 0.1``: ``cosine = bag . key / sqrt(n(bag) n(key))``,
    ``coverage = min(bag . key / n(key), 1.2)``, strength the largest ``exp(hit_log)`` of the row's hits, and
    ``score = a0 cosine + a1 coverage + (a2 + a3 min(key_length, 24) / 24 + a4 cosine) strength``.

    Args:
        bag: ``(batch, seqlen, dim)``; float32, float16 or bfloat16, as all floats here. The arithmetic is float32.
        keys: ``(rows, dim)``.
        key_length: ``(rows,)`` integer; row 0, the null fact, and padding have length 0.
        hit_row, hit_log: ``(batch, seqlen, slots)``, exact hits and their log strengths; row 0 is none.
        log_scale: ``(5,)``.
        null_score: a scalar, the score of row 0; padding scores -1e4.
        top_k: rows chosen besides the null fact; of equal ones the first.
        stream: where to run.

    Returns:
        scores ``(batch, seqlen, rows)``; the largest cosine, zero counted, ``(batch, seqlen)``; candidates
        ``(batch, seqlen, top_k + 1)`` int32, the null fact first, then from best to worst; log weights of the
        candidates, like them; log norm ``(batch, seqlen)`` of their softmax. All float32 but the candidates.

    Differentiable in bag, keys, hit_log, log_scale and null_score; the choice of candidates counts as constant.

    Raises:
        ValueError: on a wrong shape or dtype.

    Miller et al., 2016, arXiv:1606.03126 (key-value memory networks).
    """
    scores, cosine, candidates, log_weights, log_norm = _ext.fact_scores(
        bag, keys, key_length, hit_row, hit_log, log_scale, null_score, top_k, stream=stream
    )
    return scores, cosine, candidates, log_weights, log_norm


def fact_positions(
    began: mx.array,
    candidates: mx.array,
    log_weights: mx.array,
    folded: mx.array,
    scale: mx.array,
    values: mx.array,
    value_context: mx.array,
    value_length: mx.array,
    *,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """Distribution of the next byte if an answer began j bytes ago with one of that byte's candidates.

    Position (j, k) of byte t reads byte j of ``row = candidates[t-j, k]``, if it has one. Its score is
    ``scale[0] * max(began[t, j], -12) + log_weights[t-j, k] + sum(scale[1..n])``, n being the number of bytes, up to
    four, in which the text so far and the value before its byte j agree.

    Args:
        began: ``(batch, seqlen, width)`` log probabilities (:func:`began_ago`); float32, float16 or bfloat16, as all
            floats here. The arithmetic is float32.
        candidates, log_weights: ``(batch, past + seqlen, K)``, of these bytes and those before; past >= width - 1.
        folded: ``(batch, at least seqlen + 3)`` integer, the text; its last columns are the bytes.
        scale: ``(5,)``.
        values: ``(rows, width)`` integer bytes.
        value_context: ``(rows, width)`` uint32, the four value bytes before each one, nearest in the low byte.
        value_length: ``(rows,)`` integer; that of row 0 is positive.
        stream: where to run.

    Returns:
        copy ``(batch, seqlen, 256)``, the softmax of the scores summed by byte; inside ``(batch, seqlen)``, the sum of
        ``exp(began + log_weights)`` over all positions, at most 1; and the part of that sum with k = 0. All float32.

    Differentiable in began, log_weights and scale.

    Raises:
        ValueError: on a wrong shape or dtype.

    Vinyals et al., 2015, arXiv:1506.03134 (pointer networks).
    """
    copy, inside, null_inside = _ext.fact_positions(
        began, candidates, log_weights, folded, scale, values, value_context, value_length, stream=stream
    )
    return copy, inside, null_inside

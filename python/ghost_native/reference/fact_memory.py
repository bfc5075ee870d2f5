"""NumPy float64 references of how a fact memory is addressed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float

Ints = npt.NDArray[np.int64]

_PADDING, _FLOOR, _LONGEST, _COVERED = -1e4, -12.0, 24, 1.2


def fact_match_ref(
    folded: npt.ArrayLike, keys: npt.ArrayLike, key_length: npt.ArrayLike, word: npt.ArrayLike, history: int
) -> tuple[Ints, Ints]:
    """Row and length of the longest key right before each byte, compared byte by byte."""
    text, keys, lengths, word = (np.asarray(a, np.int64) for a in (folded, keys, key_length, word))
    batch, total = text.shape
    rows, found = np.zeros((batch, total - history), np.int64), np.zeros((batch, total - history), np.int64)
    for b in range(batch):
        for now in range(history, total):
            if word[text[b, now - 1]] and word[text[b, now]]:
                continue
            for row, length in enumerate(lengths.tolist()):
                begin = now - length
                if length <= found[b, now - history] or (word[text[b, begin - 1]] and word[text[b, begin]]):
                    continue
                if np.array_equal(text[b, begin:now], keys[row, keys.shape[1] - length :]):
                    rows[b, now - history], found[b, now - history] = row, length
    return rows, found


def _parts(
    bag: Float, keys: Float, hit_row: Ints, hit_log: Float, rows: int
) -> tuple[Float, Float, Float, Float, Float]:
    """dot, norm of the bag, norms of the keys, strengths (batch, seqlen, rows), and which slot each one is of."""
    strength, slot = np.zeros((*bag.shape[:2], rows)), np.full((*bag.shape[:2], rows), -1.0)
    for b, t, i in np.ndindex(hit_row.shape):
        row = hit_row[b, t, i]
        if np.exp(hit_log[b, t, i]) >= strength[b, t, row]:
            strength[b, t, row], slot[b, t, row] = np.exp(hit_log[b, t, i]), i
    return bag @ keys.T, (bag**2).sum(-1, keepdims=True) + 0.1, (keys**2).sum(-1) + 0.1, strength, slot


def fact_scores_ref(
    bag: npt.ArrayLike,
    keys: npt.ArrayLike,
    key_length: npt.ArrayLike,
    hit_row: npt.ArrayLike,
    hit_log: npt.ArrayLike,
    log_scale: npt.ArrayLike,
    null_score: npt.ArrayLike,
    top_k: int,
) -> tuple[Float, Float, Ints, Float, Float]:
    """scores, largest cosine, candidates, their log weights, log norm."""
    bag, keys, hit_log, a = (np.asarray(v, np.float64) for v in (bag, keys, hit_log, np.exp(log_scale)))
    lengths, hits = np.asarray(key_length, np.int64), np.asarray(hit_row, np.int64)
    dot, of_bag, of_key, strength, _ = _parts(bag, keys, hits, hit_log, len(keys))
    cosine = dot / np.sqrt(of_bag * of_key)
    exact = a[2] + a[3] * np.minimum(lengths, _LONGEST) / _LONGEST + a[4] * cosine
    scores = a[0] * cosine + a[1] * np.minimum(dot / of_key, _COVERED) + exact * strength
    other = np.where(np.arange(len(keys)) == 0, null_score, _PADDING)
    scores = np.where(lengths > 0, scores, other)
    left = np.where(np.arange(len(keys)) == 0, -np.inf, scores)
    best = np.argsort(-left, axis=-1, kind="stable")[..., :top_k]
    candidates = np.concatenate([np.zeros((*bag.shape[:2], 1), np.int64), best], axis=-1)
    chosen = np.take_along_axis(scores, candidates, -1)
    log_norm = np.log(np.exp(chosen - chosen.max(-1, keepdims=True)).sum(-1)) + chosen.max(-1)
    largest = np.where(lengths > 0, cosine, 0.0).max(-1)
    return scores, largest, candidates, chosen - log_norm[..., None], log_norm


def fact_scores_vjp_ref(
    bag: npt.ArrayLike,
    keys: npt.ArrayLike,
    key_length: npt.ArrayLike,
    hit_row: npt.ArrayLike,
    hit_log: npt.ArrayLike,
    log_scale: npt.ArrayLike,
    null_score: npt.ArrayLike,
    top_k: int,
    dscores: npt.ArrayLike,
    dcosine: npt.ArrayLike,
    dlog_weights: npt.ArrayLike,
    dlog_norm: npt.ArrayLike,
) -> tuple[Float, Float, Float, Float, Float]:
    """dbag, dkeys, dhit_log, dlog_scale, dnull_score."""
    _, largest, candidates, log_weights, _ = fact_scores_ref(
        bag, keys, key_length, hit_row, hit_log, log_scale, null_score, top_k
    )
    bag, keys, hit_log, a = (np.asarray(v, np.float64) for v in (bag, keys, hit_log, np.exp(log_scale)))
    lengths, hits = np.asarray(key_length, np.int64), np.asarray(hit_row, np.int64)
    dlog_weights, dlog_norm, dcosine = (np.asarray(v, np.float64) for v in (dlog_weights, dlog_norm, dcosine))
    dot, of_bag, of_key, strength, slot = _parts(bag, keys, hits, hit_log, len(keys))
    cosine, is_key = dot / np.sqrt(of_bag * of_key), lengths > 0
    longer = np.minimum(lengths, _LONGEST) / _LONGEST
    ds = np.array(dscores, np.float64)
    chosen = dlog_weights + np.exp(log_weights) * (dlog_norm - dlog_weights.sum(-1))[..., None]
    for b, t, k in np.ndindex(candidates.shape):
        ds[b, t, candidates[b, t, k]] += chosen[b, t, k]
    dnull: Float = np.asarray(ds[..., 0].sum() if not is_key[0] else 0.0)
    ds = ds * is_key
    dcos = ds * (a[0] + a[4] * strength) + dcosine[..., None] * (
        is_key & (cosine == largest[..., None]) & (largest[..., None] > 0)
    )
    ratio = dot / of_key
    dratio = ds * a[1] * (ratio < _COVERED)
    ddot = dcos / np.sqrt(of_bag * of_key) + dratio / of_key
    dof_key = (-0.5 * dcos * cosine / of_key - dratio * ratio / of_key).sum((0, 1))
    dof_bag = (-0.5 * dcos * cosine / of_bag).sum(-1, keepdims=True)
    dbag = ddot @ keys + 2 * bag * dof_bag
    dkeys = np.einsum("btr,btd->rd", ddot, bag) + 2 * keys * dof_key[:, None]
    exact = a[2] + a[3] * longer + a[4] * cosine
    dhit = np.zeros_like(hit_log)
    for b, t, row in np.argwhere((slot >= 0) & is_key):
        dhit[b, t, int(slot[b, t, row])] += ds[b, t, row] * exact[b, t, row] * strength[b, t, row]
    terms = (cosine, np.minimum(ratio, _COVERED), strength, strength * longer, strength * cosine)
    return dbag, dkeys, dhit, np.array([x * (ds * term).sum() for x, term in zip(a, terms, strict=True)]), dnull


def _place(began: Float, integers: list[Ints], b: int, t: int) -> list[tuple[int, int, int, int, int]]:
    """(j, k, index of the byte j ago, value byte, agreeing bytes) of every position that byte t has."""
    candidates, folded, values, context, length = integers
    _, seqlen, width = began.shape
    at, now = candidates.shape[1] - seqlen + t, folded.shape[1] - seqlen + t
    found = []
    for j in range(width):
        for k in range(candidates.shape[2]):
            row = candidates[b, at - j, k]
            if j < length[row]:
                same = 0
                while same < min(4, j) and context[row, j] >> (8 * same) & 255 == folded[b, now - same] & 255:
                    same += 1
                found.append((j, k, at - j, int(values[row, j]), same))
    return found


def fact_positions_ref(
    began: npt.ArrayLike,
    candidates: npt.ArrayLike,
    log_weights: npt.ArrayLike,
    folded: npt.ArrayLike,
    scale: npt.ArrayLike,
    values: npt.ArrayLike,
    value_context: npt.ArrayLike,
    value_length: npt.ArrayLike,
) -> tuple[Float, Float, Float]:
    """copy, inside, null_inside."""
    began, weights, scale = (np.asarray(v, np.float64) for v in (began, log_weights, scale))
    ints = [np.asarray(v).astype(np.int64) for v in (candidates, folded, values, value_context, value_length)]
    batch, seqlen, _ = began.shape
    copy, inside, of_null = np.zeros((batch, seqlen, 256)), np.zeros((batch, seqlen)), np.zeros((batch, seqlen))
    for b, t in np.ndindex(batch, seqlen):
        places = _place(began, ints, b, t)
        score = _scores_of(places, began[b, t], weights[b], scale)
        p = np.exp(score - score.max())
        for (j, k, at, byte, _), share in zip(places, p / p.sum(), strict=True):
            copy[b, t, byte] += share
            mass = np.exp(began[b, t, j] + weights[b, at, k])
            inside[b, t] += mass
            of_null[b, t] += mass if k == 0 else 0.0
    return copy, np.minimum(inside, 1.0), of_null


def _scores_of(places: list[tuple[int, int, int, int, int]], began: Float, weights: Float, scale: Float) -> Float:
    return np.array(
        [scale[0] * max(began[j], _FLOOR) + weights[at, k] + scale[1 : 1 + same].sum() for j, k, at, _, same in places]
    )


def fact_positions_vjp_ref(
    began: npt.ArrayLike,
    candidates: npt.ArrayLike,
    log_weights: npt.ArrayLike,
    folded: npt.ArrayLike,
    scale: npt.ArrayLike,
    values: npt.ArrayLike,
    value_context: npt.ArrayLike,
    value_length: npt.ArrayLike,
    dcopy: npt.ArrayLike,
    dinside: npt.ArrayLike,
    dnull_inside: npt.ArrayLike,
) -> tuple[Float, Float, Float]:
    """dbegan, dlog_weights, dscale."""
    began, weights, scale = (np.asarray(v, np.float64) for v in (began, log_weights, scale))
    dcopy, dinside, dnull = (np.asarray(v, np.float64) for v in (dcopy, dinside, dnull_inside))
    ints = [np.asarray(v).astype(np.int64) for v in (candidates, folded, values, value_context, value_length)]
    dbegan, dweights, dscale = np.zeros_like(began), np.zeros_like(weights), np.zeros(5)
    for b, t in np.ndindex(began.shape[:2]):
        places = _place(began, ints, b, t)
        score = _scores_of(places, began[b, t], weights[b], scale)
        p = np.exp(score - score.max())
        p /= p.sum()
        of_byte = np.array([dcopy[b, t, byte] for _, _, _, byte, _ in places])
        total = sum(np.exp(began[b, t, j] + weights[b, at, k]) for j, k, at, _, _ in places)
        for (j, k, at, _, same), d in zip(places, p * (of_byte - (p * of_byte).sum()), strict=True):
            share = dinside[b, t] * (total < 1) + dnull[b, t] * (k == 0)
            dmass = np.exp(began[b, t, j] + weights[b, at, k]) * share
            dweights[b, at, k] += d + dmass
            dbegan[b, t, j] += dmass + scale[0] * d * (began[b, t, j] > _FLOOR)
            dscale[0] += d * max(began[b, t, j], _FLOOR)
            dscale[1 : 1 + same] += d
    return dbegan, dweights, dscale

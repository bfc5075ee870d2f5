"""How the references walk sequences, equal or ragged."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


def spans_of(x: Float, cu_seqlens: npt.ArrayLike | None) -> tuple[Float, list[tuple[int, int]]]:
    """x as (total, dim) rows, and the (begin, end) rows of every sequence."""
    if cu_seqlens is None:
        batch, seqlen = x.shape[:2]
        flat = x.reshape(batch * seqlen, *x.shape[2:])
        return flat, [(b * seqlen, (b + 1) * seqlen) for b in range(batch)]
    bounds = [int(v) for v in np.asarray(cu_seqlens)]
    return x, list(itertools.pairwise(bounds))

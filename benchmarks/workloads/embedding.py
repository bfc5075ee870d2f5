"""Rows of a table by byte."""

from __future__ import annotations

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.embedding import embedding_ref, embedding_vjp_ref

SHAPES = [(4096, 256, 256), (4096, 8192, 128)]  # tokens, rows of the table, dim


def make(tokens: int, vocab: int, dim: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    inputs = {
        "weight": mx.random.normal((vocab, dim)).astype(getattr(mx, dtype)),
        "tokens": mx.random.randint(0, vocab, (tokens,)),
    }
    mx.eval(inputs)
    weight = inputs["weight"]
    rows = float(tokens * dim * weight.itemsize)
    case = Case("embedding", by(tokens, vocab, dim), dtype, moved=rows + min(rows, weight.nbytes))
    work = Work(
        gn.embedding,
        inputs,
        case,
        case.backward(moved=case.moved + rows + weight.nbytes),
        expected=lambda: embedding_ref(**work.numpy()),
        differentiable=("weight",),
        expected_both=lambda: [embedding_vjp_ref(**work.numpy(), dy=to_numpy(work.dy()))],
    )
    return work

"""Bytes to learn from: documents of files and folders, held-out splits, and batches of windows."""

from __future__ import annotations

from ghost_native.data.batch import TokenBatch
from ghost_native.data.batches import BatcherState, ByteBatcher
from ghost_native.data.corpora import (
    Corpus,
    Document,
    Skipped,
    baselines,
    python_corpus,
    read_corpus,
    read_documents,
)

__all__ = [
    "BatcherState",
    "ByteBatcher",
    "Corpus",
    "Document",
    "Skipped",
    "TokenBatch",
    "baselines",
    "python_corpus",
    "read_corpus",
    "read_documents",
]

"""Everything between files and batches: readers, tokenizers, shards, and the sources that training iterates over."""

from __future__ import annotations

from ghost_native.data.batch import BatchSource, PreferenceBatch, TokenBatch
from ghost_native.data.batches import BatcherState, ByteBatcher
from ghost_native.data.chat import ChatSource, ChatTemplate, Message
from ghost_native.data.corpora import (
    Corpus,
    Document,
    Skipped,
    baselines,
    python_corpus,
    read_corpus,
    read_documents,
)
from ghost_native.data.packing import PackedSource
from ghost_native.data.preference import PreferenceSource
from ghost_native.data.prefetch import Prefetched
from ghost_native.data.rows import RowStream
from ghost_native.data.shard_source import ShardSource
from ghost_native.data.shards import Shards, ShardWriter
from ghost_native.data.sources import open_reader, open_source
from ghost_native.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, decode, load_tokenizer

__all__ = [
    "BatchSource",
    "BatcherState",
    "ByteBatcher",
    "ByteTokenizer",
    "ChatSource",
    "ChatTemplate",
    "Corpus",
    "Document",
    "Message",
    "PackedSource",
    "PreferenceBatch",
    "PreferenceSource",
    "Prefetched",
    "RowStream",
    "SentencePieceTokenizer",
    "ShardSource",
    "ShardWriter",
    "Shards",
    "Skipped",
    "TokenBatch",
    "Tokenizer",
    "baselines",
    "decode",
    "load_tokenizer",
    "open_reader",
    "open_source",
    "python_corpus",
    "read_corpus",
    "read_documents",
]

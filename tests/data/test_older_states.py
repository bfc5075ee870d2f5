"""States that earlier versions saved are still understood: the fingerprints in them are written down here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ghost_native.data import ByteBatcher, ByteTokenizer, Document, ShardWriter, open_source
from tests.data.examples import write_lines

TOKENIZER = ByteTokenizer()


def records(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "rows.jsonl", [{"text": f"row {k}", "body": "b" * k} for k in range(50)])


@pytest.mark.parametrize(
    ("changes", "stream"),
    [
        ({"fields": {"text": "text"}, "heldout_share": 0.05}, "4cd0b97aae524e82b4ea9fdc267b0aa1"),
        (
            {"fields": {"body": "text"}, "heldout_share": 0.2, "heldout": True, "seed": 3},
            "ecdd51bf529591a5c1dc0ef6c6270770",
        ),
        ({}, "d2a482bd7fdd4c25183747dca2d27bb1"),
    ],
)
def test_of_records(tmp_path, changes, stream):
    source, _ = open_source(records(tmp_path), TOKENIZER, 2, 8, **changes)
    assert source.state()["stream"] == stream


def test_of_records_some_of_which_are_left_out(tmp_path):
    """Other rows are other data."""
    fields = {"text": "text"}
    states = [
        open_source(records(tmp_path), TOKENIZER, 2, 8, fields=fields, without=without)[0].state()["stream"]
        for without in ((), (5,), (6,))
    ]
    assert len(set(states)) == 3


def test_of_shards_in_several_files(tmp_path):
    with ShardWriter(tmp_path / "s", TOKENIZER, shard_tokens=40) as writer:
        for k in range(20):
            writer.add(np.arange(k, k + 9, dtype=np.int32), num_bytes=9)
    source, _ = open_source(tmp_path / "s", TOKENIZER, 2, 8, run=3)
    assert source.state()["stream"] == "3917689c51b57d38f0366841810a7747"


def test_of_bytes():
    documents = [Document(name, name.encode() * 30) for name in "abcdef"]
    assert ByteBatcher(documents, 2, 8, 1, run=3).state()["stream"] == "e7f79c151595e6a56e01250d1e6e8d81"

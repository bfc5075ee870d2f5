"""From what a configuration says about data to the rows it means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ghost_native.data.batch import BatchSource, PreferenceBatch, TokenBatch
from ghost_native.data.chat import ChatSource
from ghost_native.data.corpora import Skipped, list_files
from ghost_native.data.hub import HubReader
from ghost_native.data.packing import PackedSource
from ghost_native.data.preference import PreferenceSource
from ghost_native.data.prefetch import Prefetched
from ghost_native.data.readers import NAMED_TABLES, TABLES, file_reader
from ghost_native.data.rows import Reader, RowStream
from ghost_native.data.shard_source import ShardSource
from ghost_native.data.shards import MANIFEST, Shards
from ghost_native.data.tokenizer import Tokenizer

STAGES = ("pretrain", "sft", "preference")


def open_reader(
    dataset: str | Path | Sequence[str | Path],
    *,
    config: str | None = None,
    split: str = "train",
    streaming: bool = True,
    cache_dir: str | Path | None = None,
    seed: int | None = None,
) -> tuple[Reader, list[Skipped]]:
    """The reader of a dataset, and the files it leaves out.

    What exists here is read from here: text and JSON lines by `readers`; .parquet, .arrow, .csv and .json files named
    one by one, and folders that hold .parquet or .arrow files, by the `datasets` library. One name of something that
    does not exist is a dataset on the HuggingFace hub, unless it looks like a path (an ending such as .txt, a first
    character ".", "/" or "~", or more than one "/").

    Args:
        dataset: files and folders, or one name.
        config, split, streaming, cache_dir: for datasets read by the library, see `HubReader`.
        seed: of the order of files, shards or rows, shuffled anew for every pass; None for their own order.

    Raises:
        As `HubReader` and `file_reader`.
    """
    paths = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    if len(paths) == 1 and not Path(paths[0]).expanduser().exists() and not _looks_like_a_path(str(paths[0])):
        hub = HubReader(str(paths[0]), config, split, streaming=streaming, cache_dir=cache_dir, seed=seed)
        return hub, []
    found = [Path(path).expanduser() for path in paths]
    files, skipped = list_files(found, "open_reader")
    named = set(found)
    tables = [path for _, path in files if path.suffix in (NAMED_TABLES if path in named else TABLES)]
    if not tables:
        return file_reader(found, seed)
    given: str | list[Path] = tables
    if len(found) == 1 and found[0].is_dir():
        given = str(found[0])
    elif len(tables) < len(files):
        other = next(label for label, path in files if path not in tables)
        raise ValueError(f"[open_reader] {other} and {tables[0].name} are files of different kinds; read them apart")
    return HubReader(given, config, split, streaming=streaming, cache_dir=cache_dir, seed=seed), skipped


def _looks_like_a_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or Path(name).suffix[1:].isalpha()
    )


def is_shards(dataset: str | Path | Sequence[str | Path]) -> bool:
    """Whether this names one folder of pre-tokenized shards."""
    paths = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    return len(paths) == 1 and (Path(paths[0]).expanduser() / MANIFEST).is_file()


def open_source(
    dataset: str | Path | Sequence[str | Path],
    tokenizer: Tokenizer,
    batch: int,
    seqlen: int,
    *,
    stage: str = "pretrain",
    config: str | None = None,
    split: str = "train",
    text_field: str = "text",
    shuffle_buffer: int = 1000,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
    streaming: bool = True,
    seed: int = 0,
    run: int = 1,
    packing: bool = True,
) -> tuple[BatchSource[TokenBatch] | BatchSource[PreferenceBatch], list[Skipped]]:
    """The source of batches that a configuration's data keys describe, and the files it leaves out.

    Args:
        dataset: as for `open_reader`, or a folder of shards.
        stage: "pretrain": every token counts; "sft": conversations, answers count; "preference": `PreferenceBatch`es.
        text_field: the field with the text, for "pretrain".
        shuffle_buffer: rows read ahead and shuffled, where the order is not shuffled as a whole anyway.
        num_workers: 0 makes a batch when it is asked for; n makes batches ahead in a thread, encoding with n threads.
            The batches are the same.
        run: batches for which rows continue, for "pretrain".
        packing: several conversations a row, for "sft".

    Raises:
        As the source and the reader; ValueError: another stage, or shards for a stage other than "pretrain".
    """
    name = "open_source"
    if stage not in STAGES:
        raise ValueError(f"[{name}] stage is {stage!r}, allowed: {', '.join(STAGES)}")
    if num_workers < 0:
        raise ValueError(f"[{name}] num_workers is {num_workers}, at least 0 is needed")
    skipped: list[Skipped] = []
    source: BatchSource[TokenBatch] | BatchSource[PreferenceBatch]
    if is_shards(dataset):
        if stage != "pretrain":
            raise ValueError(f"[{name}] shards hold plain tokens, stage {stage!r} needs rows; name the dataset itself")
        path = dataset if isinstance(dataset, (str, Path)) else next(iter(dataset))
        source = ShardSource(Shards(Path(path).expanduser(), tokenizer), batch, seqlen, seed, run=run)
    else:
        reader, skipped = open_reader(
            dataset, config=config, split=split, streaming=streaming, cache_dir=cache_dir, seed=seed
        )
        rows = RowStream(reader, seed, shuffle_buffer)
        if stage == "pretrain":
            source = PackedSource(
                rows, tokenizer, batch, seqlen, text_field=text_field, run=run, num_threads=max(1, num_workers)
            )
        elif stage == "sft":
            source = ChatSource(rows, tokenizer, batch, seqlen, packing=packing)
        else:
            source = PreferenceSource(rows, tokenizer, batch, seqlen)
    if num_workers:
        source = cast(BatchSource[TokenBatch], Prefetched(source))
    return source, skipped

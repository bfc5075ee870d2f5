"""From what a configuration says about data to the rows it means."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from ghost_native.data.batch import BatchSource, PreferenceBatch, TokenBatch
from ghost_native.data.chat import ChatSource
from ghost_native.data.corpora import Skipped, list_files
from ghost_native.data.files import COMPRESSED
from ghost_native.data.hub import HubReader
from ghost_native.data.packing import PackedSource
from ghost_native.data.preference import PreferenceSource
from ghost_native.data.prefetch import Prefetched
from ghost_native.data.readers import JSON_LINES, NAMED_TABLES, TABLES, FileFormat, file_reader, kind_of
from ghost_native.data.rows import Reader, RowStream
from ghost_native.data.selection import Selection
from ghost_native.data.shard_part import TokenRing, hold_out
from ghost_native.data.shard_source import ShardSource
from ghost_native.data.shards import MANIFEST, Shards
from ghost_native.data.tokenizer import Tokenizer

STAGES = ("pretrain", "sft", "preference")

Dataset = str | Path | Sequence[str | Path]
Format = Literal["auto", "text", "jsonl", "shards"]
Kind = Literal["text", "compressed text", "JSON lines", "tables", "hub", "shards"]


def kind_of_data(dataset: Dataset, format: Format = "auto") -> Kind:
    """What a dataset is read as: as `format` says, or with "auto" as its names say.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: an empty folder, or shards beside other paths.
    """
    paths = _paths(dataset)
    if format in ("auto", "shards") and (_some_shards(paths) or format == "shards"):
        return "shards"
    if format == "jsonl":
        return "JSON lines"
    if format == "auto" and _is_hub(dataset):
        return "hub"
    files = list_files(paths, "kind_of_data")[0]
    if format == "auto":
        if tables_among(files, paths):
            return "tables"
        if any(kind_of(path) in JSON_LINES for _, path in files):
            return "JSON lines"
    return "compressed text" if any(path.suffix in COMPRESSED for _, path in files) else "text"


def tables_among(files: Sequence[tuple[str, Path]], named: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Of (label, path)s those that the `datasets` library reads: some kinds of files only where they are named."""
    given = {Path(path) for path in named}
    return [(label, path) for label, path in files if path.suffix in (NAMED_TABLES if path in given else TABLES)]


def _paths(dataset: Dataset) -> list[Path]:
    return [Path(path).expanduser() for path in ([dataset] if isinstance(dataset, (str, Path)) else dataset)]


def _is_hub(dataset: Dataset) -> bool:
    names = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    return len(names) == 1 and not Path(names[0]).expanduser().exists() and not _looks_like_a_path(str(names[0]))


def _some_shards(paths: list[Path]) -> bool:
    """Whether there is a folder of shards.

    Raises:
        ValueError: there are other paths beside it.
    """
    found = next((path for path in paths if (path / MANIFEST).is_file()), None)
    if found is not None and len(paths) > 1:
        raise ValueError(
            f"[open_source] {found} is a folder of shards, given {len(paths)} paths, allowed: it alone; make one of "
            "all with `ghost-native data shard`"
        )
    return found is not None


def open_reader(
    dataset: Dataset,
    *,
    format: FileFormat = "auto",
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
        format: "text" and "jsonl" read files and folders so, whatever the names.
        config, split, streaming, cache_dir: for datasets read by the library, see `HubReader`.
        seed: of the order of files, shards or rows, shuffled anew for every pass; None for their own order.

    Raises:
        As `HubReader` and `file_reader`.
    """
    paths = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    found = _paths(dataset)
    if format != "auto":
        return file_reader(found, seed, format=format)
    if _is_hub(dataset):
        hub = HubReader(str(paths[0]), config, split, streaming=streaming, cache_dir=cache_dir, seed=seed)
        return hub, []
    files, skipped = list_files(found, "open_reader")
    tables = [path for _, path in tables_among(files, found)]
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


def is_shards(dataset: Dataset) -> bool:
    """Whether this names one folder of pre-tokenized shards."""
    paths = _paths(dataset)
    return len(paths) == 1 and (paths[0] / MANIFEST).is_file()


def open_source(
    dataset: Dataset,
    tokenizer: Tokenizer,
    batch: int,
    seqlen: int,
    *,
    stage: str = "pretrain",
    format: Format = "auto",
    config: str | None = None,
    split: str = "train",
    text_field: str = "text",
    shuffle_buffer: int = 1000,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
    streaming: bool = True,
    seed: int | None = 0,
    run: int = 1,
    packing: bool = True,
    fields: Mapping[str, str] | None = None,
    heldout_share: float = 0.0,
    heldout: bool = False,
    without: Collection[int] = (),
) -> tuple[BatchSource[TokenBatch] | BatchSource[PreferenceBatch], list[Skipped]]:
    """The source of batches that a configuration's data keys describe, and the files it leaves out.

    Args:
        dataset: as for `open_reader`, or a folder of shards.
        stage: "pretrain": every token counts; "sft": conversations, answers count; "preference": `PreferenceBatch`es.
        format: what the files hold, see `kind_of_data`.
        text_field: the field with the text, for "pretrain".
        shuffle_buffer: rows read ahead and shuffled, where the order is not shuffled as a whole anyway.
        num_workers: 0 makes a batch when it is asked for; n makes batches ahead in a thread, encoding with n threads.
            The batches are the same.
        seed: of the order; None keeps that of the data.
        run: batches for which rows continue, for "pretrain".
        packing: several conversations a row, for "sft".
        fields: names of fields by the names they have in the dataset, see `Selection`.
        heldout_share, heldout: the share of the rows, or of the documents of shards, that is held out, and whether
            these are wanted or the others.
        without: rows that are left out, see `Selection`.

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
    if kind_of_data(dataset, format) == "shards":
        if stage != "pretrain":
            raise ValueError(f"[{name}] shards hold plain tokens, stage {stage!r} needs rows; name the dataset itself")
        shards = Shards(_paths(dataset)[0], tokenizer)
        ring: TokenRing = hold_out(shards, heldout_share, seqlen + 1)[heldout] if heldout_share else shards
        source = ShardSource(ring, batch, seqlen, seed, run=run)
    else:
        files: FileFormat = "auto" if format == "shards" else format
        reader, skipped = open_reader(
            dataset, format=files, config=config, split=split, streaming=streaming, cache_dir=cache_dir, seed=seed
        )
        if fields or heldout_share or heldout or without:
            reader = Selection(reader, fields, heldout_share, heldout=heldout, without=without)
        rows = RowStream(reader, seed, max(1, shuffle_buffer))
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

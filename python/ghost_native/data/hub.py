"""Datasets of the HuggingFace hub, and files in their formats, through the `datasets` library."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ghost_native.data.extras import need
from ghost_native.data.rows import Position, Row, digest, order_of

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json"}
_SLICE = 64  # rows fetched at once from a dataset on disk
_LEAVE_S = 2.0  # that the end of the process waits for a thread of a progress bar


class HubReader:
    """A dataset through `datasets.load_dataset`.

    Streaming, its shards are taken in an order shuffled by `seed` and pass, and positions hold the library's own
    `state_dict` of the shard being read; with a version that has none, the rows given out are counted and skipped
    again (`resume` says which). Not streaming, the dataset is downloaded first, its rows are shuffled over the whole
    of it, and a position is the number of a row.

    Args:
        dataset: a name on the hub such as "allenai/c4", a folder, or files of one kind (.parquet, .arrow, .csv, .json).
        config: its configuration, where it has several.
        split: such as "train".
        streaming: read while training instead of downloading everything first.
        cache_dir: where the library keeps what it downloads; its own choice when None.
        seed: of the order; None for the dataset's own.

    Raises:
        ImportError: datasets is not installed.
        FileNotFoundError: there is no such dataset, or a file is missing.
        ConnectionError: the hub cannot be reached.
        ValueError: no such configuration or split, or the library cannot read the dataset.
    """

    def __init__(
        self, dataset: str | Sequence[Path], config: str | None = None, split: str = "train", *,
        streaming: bool = True, cache_dir: str | Path | None = None, seed: int | None = None,
    ) -> None:  # fmt: skip
        self.seed, self.streaming = seed, streaming
        self.name = dataset if isinstance(dataset, str) else ", ".join(map(str, dataset))
        self._dataset = _load(dataset, self.name, config, split, streaming, cache_dir)
        self.ordered = not streaming and seed is not None
        self.num_shards = self._count_shards() if streaming else 1
        size = self.num_shards if streaming else len(self._dataset)
        self.fingerprint = digest("hub", self.name, config, split, streaming, seed, size)
        self.resume = "rows" if not streaming else "state_dict" if hasattr(self._dataset, "state_dict") else "skip"

    def _count_shards(self) -> int:
        shards = getattr(self._dataset, "num_shards", None)
        return int(shards) if shards and hasattr(self._dataset, "shard") else 1

    def open(self, epoch: int, position: Position | None = None) -> StreamCursor | TableCursor:
        if self.streaming:
            order = order_of(self.num_shards, self.seed, epoch)
            return StreamCursor(self._dataset, self.name, [int(i) for i in order], position)
        return TableCursor(self._dataset, self.name, self.seed, epoch, position)


class StreamCursor:
    """One pass of a streamed dataset.

    Positions are {"shard": its number in the order of the pass, "rows": taken from it, "state": of the library}.
    """

    def __init__(self, dataset: Any, name: str, shards: list[int], position: Position | None) -> None:
        self._dataset, self._name, self._shards = dataset, name, shards
        begin = position or {"shard": 0, "rows": 0, "state": None}
        self._number, self._taken, self._state = begin["shard"], begin["rows"], begin["state"]
        self._shard: Any = None
        self._rows: Iterator[Any] | None = None

    def __iter__(self) -> StreamCursor:
        return self

    def __next__(self) -> Row:
        while self._number < len(self._shards):
            if self._rows is None:
                self._rows = self._open_shard()
            try:
                values = next(self._rows)
            except StopIteration:
                self._number, self._taken, self._state, self._rows = self._number + 1, 0, None, None
                continue
            except Exception as error:
                raise _explain(error, self._name) from error
            self._taken += 1
            return Row(values, f"{self._name}, shard {self._shards[self._number] + 1}, row {self._taken}")
        raise StopIteration

    def _open_shard(self) -> Iterator[Any]:
        # An object of its own for every pass: the library's remember where they stopped.
        self._shard = self._dataset
        if hasattr(self._dataset, "shard"):
            self._shard = self._dataset.shard(len(self._shards), self._shards[self._number])
        if self._state is not None:
            self._shard.load_state_dict(self._state)
        elif self._taken:
            self._shard = self._shard.skip(self._taken)
        return iter(self._shard)

    def position(self) -> Position:
        state = self._state
        if self._rows is not None and hasattr(self._shard, "state_dict"):
            state = self._shard.state_dict()
            try:
                json.dumps(state)
            except TypeError:
                state = None  # skip ahead in its place
        return {"shard": self._number, "rows": self._taken, "state": state}

    def share(self) -> float | None:
        """In shards, where there are several."""
        return self._number / len(self._shards) if len(self._shards) > 1 else None


class TableCursor:
    """One pass of a dataset on disk. Positions count the rows taken."""

    def __init__(self, dataset: Any, name: str, seed: int | None, epoch: int, position: Position | None) -> None:
        self._dataset, self._name = dataset, name
        self._order = order_of(len(dataset), seed, epoch)
        self._taken: int = position or 0
        self._fetched: list[dict[str, Any]] = []

    def __iter__(self) -> TableCursor:
        return self

    def __next__(self) -> Row:
        if self._taken >= len(self._order):
            raise StopIteration
        if not self._fetched:
            columns = self._dataset[[int(i) for i in self._order[self._taken : self._taken + _SLICE]]]
            rows = zip(*columns.values(), strict=True)
            self._fetched = [dict(zip(columns, values, strict=True)) for values in rows][::-1]
        row = Row(self._fetched.pop(), f"{self._name}, row {int(self._order[self._taken]) + 1}")
        self._taken += 1
        return row

    def position(self) -> Position:
        return self._taken

    def share(self) -> float | None:
        return self._taken / len(self._order) if len(self._order) else None


def _load(
    dataset: str | Sequence[Path], name: str, config: str | None, split: str, streaming: bool,
    cache_dir: str | Path | None,
) -> Any:  # fmt: skip
    library = need("datasets", "datasets", "HubReader")
    _end_progress_bars_at_exit()
    arguments: dict[str, Any] = {"path": dataset}
    if not isinstance(dataset, str):
        kinds = {Path(path).suffix for path in dataset}
        if len(kinds) != 1 or not kinds <= _BUILDERS.keys():
            raise ValueError(f"[HubReader] {name}: files of one kind out of {', '.join(_BUILDERS)} are needed")
        arguments = {
            "path": _BUILDERS[kinds.pop()],
            "data_files": {split.split("[")[0]: [str(path) for path in dataset]},
        }
    if cache_dir is not None:
        arguments["cache_dir"] = str(cache_dir)
    try:
        with _quiet():
            return library.load_dataset(name=config, split=split, streaming=streaming, **arguments)
    except Exception as error:
        raise _explain(error, name) from error


@functools.cache
def _end_progress_bars_at_exit() -> None:
    """Let the threads that watch over the library's progress bars end before Python is taken down.

    tqdm only wakes them then, and Python up to 3.13 may crash when a thread asks for its lock in that moment:
    https://github.com/python/cpython/issues/110052.
    """
    monitor = need("tqdm", "datasets", "HubReader").TMonitor

    def end() -> None:
        for thread in threading.enumerate():
            if isinstance(thread, monitor):
                thread.was_killed.set()
                thread.join(_LEAVE_S)  # its own way to end waits for ever, as for a bar that another thread holds

    atexit.register(end)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the hub client's warnings of every attempt; what fails in the end is an error anyway."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _explain(error: Exception, name: str) -> Exception:
    """An error of the library as one of ours: what was asked for, and what the library says."""
    said = " ".join(str(error).split()) or type(error).__name__
    kind = type(error).__name__
    if isinstance(error, ConnectionError) or "Offline" in kind or "Timeout" in kind:
        return ConnectionError(
            f"[HubReader] the hub cannot be reached for the dataset {name!r}, and no file or folder of this name is "
            f"here: {said}"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"[HubReader] there is no dataset {name!r}: {said}")
    if isinstance(error, OSError):
        return error
    return ValueError(f"[HubReader] {name}: {said}")

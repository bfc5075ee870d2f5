"""From a configuration to what a run reads: batches to train on, and what is held out to score the model with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ghost_native.data.batch import BatchSource, TokenBatch
from ghost_native.data.batches import ByteBatcher
from ghost_native.data.config import OF_DATASETS, PYTHON, DataConfig, Format
from ghost_native.data.corpora import (
    Corpus,
    Document,
    Skipped,
    list_files,
    load_file,
    python_corpus,
    read_corpus,
    read_documents,
)
from ghost_native.data.document_reader import DocumentReader
from ghost_native.data.packing import PackedSource
from ghost_native.data.prefetch import Prefetched
from ghost_native.data.readers import FileReader, TextFiles
from ghost_native.data.row_share import RowShare
from ghost_native.data.rows import Reader, RowStream
from ghost_native.data.selection import Selection, content_of, fitting_share
from ghost_native.data.shard_part import hold_out
from ghost_native.data.shards import Shards
from ghost_native.data.sources import Kind, kind_of_data, open_reader, open_source, tables_among
from ghost_native.data.tokenizer import Tokenizer
from ghost_native.models.checked import keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.train.ranks import ALONE, Ranks
from ghost_native.train.run_config import RunConfig

T = TypeVar("T")
_PLAIN_SEED = 1 << 20  # the order of the text beside facts is another than that of the batches
_OF_RECORDS = (*OF_DATASETS, "text_field", "shuffle_buffer")
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "text": _OF_RECORDS, "compressed text": _OF_RECORDS, "shards": _OF_RECORDS, "JSON lines": OF_DATASETS,
}  # fmt: skip
_OF_STAGES: Mapping[str, tuple[str, ...]] = {
    "text_field": ("pretrain",), "chat_field": ("sft",), "prompt_field": ("sft", "dpo"), "answer_field": ("sft",),
    "chosen_field": ("dpo",), "rejected_field": ("dpo",), "packing": ("sft",),
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
        source: batches to train on.
        plain: text beside questions about facts, of which every process has rows of its own; None where there is none.
        heldout: whole documents held out, for plain files.
        heldout_source: makes the source of held-out batches, for everything else; None where nothing is held out.
        skipped: files that are not used, and why.
        describe: one line for people.
    """

    source: BatchSource[Any]
    plain: BatchSource[TokenBatch] | None
    heldout: list[Document]
    heldout_source: Callable[[], BatchSource[Any]] | None
    skipped: list[Skipped]
    describe: str


def build_data(config: RunConfig, tokenizer: Tokenizer, ranks: Ranks = ALONE) -> Data:
    """The batches that the configuration describes.

    Raises:
        FileNotFoundError, ImportError: as of the readers.
        ValueError: no data is named, the same is named to train on and to hold out, a key has no effect on such data,
            or as of the readers.
    """
    data = config.data
    if not data.paths and data.dataset is None:
        raise ValueError(
            "[build_data] no data is named, given neither data.paths nor data.dataset, allowed: files and folders, a "
            f"dataset of HuggingFace, or dataset: {PYTHON} for this Python's own text."
        )
    for path in (*data.paths, *data.heldout_paths):
        if not Path(path).expanduser().exists():
            raise FileNotFoundError(f"[build_data] no such file or folder: {path}")
    builder = _Builder(config, tokenizer, ranks)
    return builder.from_text() if builder.kind == "text" else builder.from_rows()


class _Builder:
    """What `build_data` works with."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, ranks: Ranks) -> None:
        self.config, self.tokenizer, self.ranks = config, tokenizer, ranks
        self.data, self.train = config.data, config.train
        named = self.data.dataset
        self.paths = _expanded(self.data.paths or ([named] if named and Path(named).expanduser().exists() else []))
        self.dataset: str | list[str] = self.paths or str(named)
        self.heldout_paths = _expanded(self.data.heldout_paths)
        # Text may be held out beside shards, which are told by what the folder holds.
        self.heldout_format: Format = "auto" if self.data.format == "shards" else self.data.format
        python = named == PYTHON
        self.kind: Kind = "text" if python else kind_of_data(self.dataset, self.data.format)
        self.heldout_kind = kind_of_data(self.heldout_paths, self.heldout_format) if self.heldout_paths else None
        self.rows = self.train.micro_batch_size * self.train.grad_accum_steps * ranks.size
        self.plain_rows = self.train.fact_text if self.train.fact_share or self.train.fact_mix else 0
        # A buffer of one record asks for the order of the data, everywhere.
        self.seed = None if self.data.shuffle_buffer == 1 else self.data.seed
        self._check()

    def _check(self) -> None:
        """ValueError for a stage that cannot learn from such data, and for keys that have no effect on it."""
        if self.train.stage != "pretrain" and self.kind in ("text", "compressed text", "shards"):
            raise ValueError(
                f"[build_data] the stage {self.train.stage} needs records, given {self.kind}, allowed: JSON lines, "
                "tables such as .parquet, or a dataset; data.format: jsonl reads files of any name so."
            )
        useless = [
            f"data.{name} has no effect, given {value!r}, allowed: {known.default!r}, its default, {why}"
            for name, known in keys_of(DataConfig).items()
            if (value := getattr(self.data, name)) != known.default and (why := self._why_without_effect(name))
        ]
        if useless:
            raise ValueError(f"[build_data] {'; '.join(useless)}: leave {'them' if useless[1:] else 'it'} out.")

    def _why_without_effect(self, name: str) -> str:
        """Where a key can change nothing; empty if it can."""
        if name == "heldout" and self.heldout_paths:
            return "beside data.heldout_paths"
        if self.train.stage not in (stages := _OF_STAGES.get(name, (self.train.stage,))):
            return f"in the stage {self.train.stage}; it is for {' and '.join(stages)}"
        shuffles = name == "shuffle_buffer"
        if shuffles and self.data.shuffle_buffer == 1:
            return ""
        # What is held out is never shuffled.
        kinds = {self.kind, *({self.heldout_kind} if self.heldout_kind and not shuffles else ())}
        if any(name not in self._without_effect(kind) for kind in kinds):
            return ""
        order = ", which is shuffled as a whole, or 1 to keep its order" if shuffles else ""
        return f"with {' and '.join(sorted(kinds))}{order}"

    def _without_effect(self, kind: str) -> tuple[str, ...]:
        if kind in ("tables", "hub"):
            return () if self.data.streaming else ("shuffle_buffer",)
        return _WITHOUT_EFFECT[kind]

    # -- text files: whole documents, read anywhere -------------------------------------------------------------------

    def from_text(self) -> Data:
        corpus = self._corpus()
        source = self._ahead(self._text_source(corpus.train, self.rows, self.seed, self.train.reset_every))
        plain = None
        if self.plain_rows:
            rows, seed = self.plain_rows * self.ranks.size, self.data.seed + _PLAIN_SEED
            plain = self._own(self._ahead(self._text_source(corpus.train, rows, seed, 1)))
        heldout, make, said = corpus.heldout, None, corpus.summary()
        if self.heldout_kind not in (None, "text"):
            self._check_text_apart(corpus.train)
            make, heldout = self._heldout_rows(0.0), []
            said += f"; scored with {', '.join(self.heldout_paths)}"
        elif heldout and not self._bytes:
            documents, heldout = heldout, []

            def make() -> BatchSource[Any]:
                return self._text_source(documents, self.train.micro_batch_size, self.data.seed, 1)

        return Data(source, plain, heldout, make, corpus.skipped, said)

    @property
    def _bytes(self) -> bool:
        return self.tokenizer.kind != "sentencepiece"

    def _corpus(self) -> Corpus:
        data = self.data
        share = 0.0 if self.heldout_paths else data.heldout
        corpus = python_corpus() if data.dataset == PYTHON else read_corpus(self.paths, heldout_fraction=share)
        if not self.heldout_paths:
            return corpus
        if self.heldout_kind != "text":
            return Corpus(corpus.train, [], corpus.skipped)
        heldout, skipped = read_documents(self.heldout_paths)
        _check_apart({_fingerprint(document.data): document.name for document in heldout},
                     (_fingerprint(document.data) for document in corpus.train))  # fmt: skip
        return Corpus(corpus.train, heldout, corpus.skipped + skipped)

    def _text_source(self, documents: list[Document], rows: int, seed: int | None, run: int) -> BatchSource[TokenBatch]:
        seqlen = self.data.seq_len
        if self._bytes:
            return ByteBatcher(documents, rows, seqlen, seed, run=run)
        stream = RowStream(DocumentReader(documents, seed), seed)
        threads = max(1, self.data.num_workers)  # and no runs: only a Ghost carries state, which reads bytes
        return PackedSource(stream, self.tokenizer, rows, seqlen, num_threads=threads)

    def _ahead(self, source: BatchSource[TokenBatch]) -> BatchSource[TokenBatch]:
        return Prefetched(source) if self.data.num_workers else source

    def _own(self, source: BatchSource[TokenBatch]) -> BatchSource[TokenBatch]:
        """This process's rows of the text beside facts."""
        return RowShare(source, self.ranks.rank * self.plain_rows, self.plain_rows)

    # -- everything else: records, tokens -----------------------------------------------------------------------------

    def from_rows(self) -> Data:
        data, train = self.data, self.train
        share, said = self._share()
        without = self._heldout_contents()
        ghost = isinstance(self.config.model, GhostConfig)
        made, skipped = self._open(self.rows, self.seed, share, run=train.reset_every if ghost else 1, without=without)
        plain = None
        if self.plain_rows:
            rows = self.plain_rows * self.ranks.size
            plain = self._own(self._open(rows, data.seed + _PLAIN_SEED, share, without=without)[0])
        heldout = self._heldout_rows(share) if share or self.heldout_paths else None
        describe = f"{data.dataset or ', '.join(data.paths)}, read as {_WORDS[self.kind]}, {self.tokenizer.kind} tokens"
        return Data(made, plain, [], heldout, skipped, f"{describe}; {said}")

    def _heldout_rows(self, share: float) -> Callable[[], BatchSource[Any]]:
        def make() -> BatchSource[Any]:
            found: BatchSource[Any] = self._open(self.train.micro_batch_size, self.data.seed, share, heldout=True)[0]
            return found

        next(make())  # what is wrong with it is better known before the run than at its first score
        return make

    def _open(
        self, rows: int, seed: int | None, share: float, *, run: int = 1, heldout: bool = False,
        without: Collection[int] = (),
    ) -> tuple[Any, list[Skipped]]:  # fmt: skip
        data = self.data
        elsewhere = heldout and bool(self.heldout_paths)
        kind = self.heldout_kind if elsewhere else self.kind
        return open_source(
            self.heldout_paths if elsewhere else self.dataset,
            self.tokenizer,
            rows,
            data.seq_len,
            stage={"dpo": "preference"}.get(self.train.stage, self.train.stage),
            format=self.heldout_format if elsewhere else data.format,
            config=data.config,
            split=data.split,
            shuffle_buffer=1 if heldout else data.shuffle_buffer,
            num_workers=0 if heldout else data.num_workers,
            cache_dir=data.cache_dir,
            streaming=data.streaming,
            seed=seed,
            run=run,
            packing=data.packing,
            fields=None if kind == "shards" else self._fields(),
            heldout_share=share,
            heldout=heldout and share > 0,
            without=without,
        )

    def _fields(self) -> dict[str, str]:
        return self.data.fields(self.train.stage)

    def _reader(self, paths: str | Sequence[str], format: Format) -> Reader:
        """In its own order."""
        data = self.data
        files = "auto" if format == "shards" else format
        return open_reader(
            paths, format=files, config=data.config, split=data.split, streaming=data.streaming,
            cache_dir=data.cache_dir,
        )[0]  # fmt: skip

    def _share(self) -> tuple[float, str]:
        """The share of the data that is held out, and a word on it."""
        share = self.data.heldout
        if self.heldout_paths:
            return 0.0, f"scored with {', '.join(self.data.heldout_paths)}"
        if not share:
            return 0.0, "nothing is held out, data.heldout is 0"
        if self.kind == "shards":
            _, heldout = hold_out(shards := Shards(self.paths[0]), share, self.data.seq_len + 1)
            return share, f"{heldout.num_tokens / shards.num_tokens:.2g} of the tokens are held out"
        reader = self._reader(self.dataset, self.data.format)
        what = "files" if isinstance(reader, TextFiles) else "records"
        if isinstance(reader, TextFiles):
            found = fitting_share((label for label, _ in reader.files), share)
        else:
            found = fitting_share((row.where for row in reader.open(0)), share)
        if not found:
            return 0.0, f"nothing is held out of so few {what}, so nothing is scored: name data.heldout_paths"
        if found != share:
            return found, f"of so few {what} one is held out, whatever data.heldout = {share:g} says"
        return share, f"about {share:.2g} of the {what} are held out"

    def _heldout_contents(self) -> set[int]:
        """Fingerprints of the records held out elsewhere, which are not trained on.

        Raises:
            ValueError: whole files are named both to train on and to hold out.
        """
        if not self.heldout_paths:
            return set()
        if "shards" in (self.kind, self.heldout_kind):
            if self.kind == self.heldout_kind:
                _check_apart({Shards(self.heldout_paths[0]).fingerprints: self.heldout_paths[0]},
                             [Shards(self.paths[0]).fingerprints])  # fmt: skip
            return set()
        reader = self._reader(self.heldout_paths, self.heldout_format)
        if self.paths:
            trained = self._reader(self.paths, self.data.format)
            _check_files_apart(_files(trained, self.paths), _files(reader, self.heldout_paths))
        return Selection(reader, self._fields()).contents()

    def _check_text_apart(self, documents: list[Document]) -> None:
        """ValueError for text that is trained on as it is and held out in another form, such as compressed."""
        heldout = self._heldout_contents()
        for row in DocumentReader(documents).open(0) if heldout else ():
            if content_of(row, ["text"]) in heldout:
                raise _on_both_sides(row.where)


_WORDS: dict[Kind, str] = {
    "text": "text", "compressed text": "compressed text", "JSON lines": "JSON lines", "tables": "tables",
    "hub": "a dataset", "shards": "shards",
}  # fmt: skip


def _expanded(paths: Sequence[str]) -> list[str]:
    return [str(Path(path).expanduser()) for path in paths]


def _fingerprint(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _files(reader: Reader, paths: Sequence[str]) -> list[tuple[str, Path]]:
    """(label, path) of what a reader reads, as far as it is here."""
    if isinstance(reader, FileReader):
        return reader.files
    return tables_among(list_files(paths)[0], paths)


def _check_files_apart(trained: list[tuple[str, Path]], heldout: list[tuple[str, Path]]) -> None:
    """ValueError where a file is on both sides, be it as a copy."""
    sizes = {path.stat().st_size for _, path in heldout} - {0}
    same_size = [path for _, path in trained if path.stat().st_size in sizes]
    if same_size:  # nothing else has to be read
        _check_apart({_fingerprint(load_file(path)): label for label, path in heldout if path.stat().st_size},
                     (_fingerprint(load_file(path)) for path in same_size))  # fmt: skip


def _check_apart(heldout: Mapping[T, str], trained: Iterable[T]) -> None:
    """ValueError where something held out, a name by its fingerprint, is trained on as well."""
    for found in trained:
        if found in heldout:
            raise _on_both_sides(heldout[found])


def _on_both_sides(name: str) -> ValueError:
    return ValueError(f"[build_data] files below data.heldout_paths are also in data.paths; keep them apart: {name}")

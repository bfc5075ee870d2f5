"""Documents that are there already, as rows of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ghost_native.data.corpora import Document
from ghost_native.data.readers import end_of_piece
from ghost_native.data.rows import Position, Row, digest, order_of


class DocumentReader:
    """A reader of documents: the bytes of each are the field "text", long ones come as several rows.

    Args:
        documents: what to read.
        seed: of their order, shuffled anew for every pass; None for the order given.
    """

    ordered = True

    def __init__(self, documents: Sequence[Document], seed: int | None = None) -> None:
        self.documents, self.seed = list(documents), seed
        self.name = self.documents[0].name if len(self.documents) == 1 else f"{len(self.documents)} documents"
        self.fingerprint = digest("documents", seed, *(f"{len(document)} {document.name}" for document in documents))

    def open(self, epoch: int, position: Position | None = None) -> DocumentCursor:
        return DocumentCursor([self.documents[i] for i in order_of(len(self.documents), self.seed, epoch)], position)


class DocumentCursor:
    """One pass. Positions are [number of the document in the order of the pass, byte within it]."""

    def __init__(self, documents: list[Document], position: Position | None) -> None:
        self._documents = documents
        self._number: int = 0
        self._begin: int = 0
        if position is not None:
            self._number, self._begin = position

    def __iter__(self) -> DocumentCursor:
        return self

    def __next__(self) -> Row:
        if self._number == len(self._documents):
            raise StopIteration
        document, begin = self._documents[self._number], self._begin
        end = end_of_piece(document.data, begin)
        more = end < len(document)
        self._number, self._begin = (self._number, end) if more else (self._number + 1, 0)
        return Row({"text": bytes(document.data[begin:end])}, document.name, more)

    def position(self) -> Position:
        return [self._number, self._begin]

    def share(self) -> float | None:
        """In bytes."""
        done = sum(map(len, self._documents[: self._number])) + self._begin
        return float(done / max(1, sum(map(len, self._documents))))

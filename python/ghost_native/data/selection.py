"""A dataset seen through a configuration: fields under the names they have there, one side of the held-out split."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from ghost_native.data.rows import Cursor, Position, Reader, Row, digest

_PARTS = 1 << 16


def is_heldout(where: str, share: float) -> bool:
    """Whether what stands at a place (a file, a line, a row) is held out: a hash of the place decides."""
    return zlib.crc32(where.encode("utf-8", "surrogateescape")) % _PARTS < share * _PARTS


class Selection:
    """A reader of another reader's rows.

    Args:
        reader: the dataset.
        fields: names that rows shall have, by the names they have there; others stay as they are.
        share: of the rows that are held out, 0 to 1.
        heldout: give out the rows held out, not the others.
    """

    def __init__(
        self, reader: Reader, fields: Mapping[str, str] | None = None, share: float = 0.0, *, heldout: bool = False
    ) -> None:
        self._reader, self._share, self._heldout = reader, share, heldout
        self._fields = {theirs: ours for theirs, ours in (fields or {}).items() if theirs != ours}
        self.name, self.ordered = reader.name, reader.ordered
        self.num_bytes: int | None = None
        self.fingerprint = digest("selection", reader.fingerprint, sorted(self._fields.items()), share, heldout)

    def open(self, epoch: int, position: Position | None = None) -> SelectionCursor:
        return SelectionCursor(self._reader.open(epoch, position), self)

    def takes(self, row: Row) -> bool:
        return is_heldout(row.where, self._share) == self._heldout

    def renamed(self, row: Row) -> Row:
        if not self._fields:
            return row
        renamed = {ours: row.values[theirs] for theirs, ours in self._fields.items() if theirs in row.values}
        others = {name: value for name, value in row.values.items() if name not in self._fields}
        return row._replace(values={**others, **renamed})


class SelectionCursor:
    """One pass of a `Selection`; positions are those of the reader behind it."""

    def __init__(self, cursor: Cursor, selection: Selection) -> None:
        self._cursor, self._selection = cursor, selection

    def __iter__(self) -> SelectionCursor:
        return self

    def __next__(self) -> Row:
        while True:
            row = next(self._cursor)
            if self._selection.takes(row):
                return self._selection.renamed(row)

    def position(self) -> Position:
        return self._cursor.position()

    def share(self) -> float | None:
        """Of the pass that is done, as the reader behind it counts."""
        return self._cursor.share()

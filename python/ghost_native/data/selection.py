"""A dataset seen through a configuration: fields under the names they have there, one side of the held-out split."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Collection, Iterable, Mapping

from ghost_native.data.rows import Cursor, Position, Reader, Row, digest

_PARTS = 1 << 16


def _part(where: str) -> int:
    return zlib.crc32(where.encode("utf-8", "surrogateescape")) % _PARTS


def is_heldout(where: str, share: float) -> bool:
    """Whether what stands at a place (a file, a line, a row) is held out: a hash of the place decides."""
    return _part(where) < share * _PARTS


def fitting_share(places: Iterable[str], share: float) -> float:
    """A share by which something of a dataset is held out, and something is not: `share` where it does.

    Of few places a hash may choose none, or all. Then the one that it would choose first is held out.

    Args:
        places: of the dataset; they are gone through as far as needed.
        share: above 0.

    Returns:
        `share` itself where it does; 0 where there are no two places to tell apart.
    """
    low, high = _PARTS, -1
    for place in places:
        low, high = min(low, _part(place)), max(high, _part(place))
        if low < share * _PARTS <= high:
            return share
    return (low + 1) / _PARTS if low < high else 0.0


def content_of(row: Row, fields: Iterable[str]) -> int | None:
    """A fingerprint of these fields of a row, the same wherever it stands; None where it has none of them."""
    found = {name: row.values[name] for name in fields if row.values.get(name) is not None}
    if not found:
        return None
    if found.keys() == {"text"}:  # bytes of a text file are the same text as a string of a record
        text = found["text"]
        data = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")
    else:
        data = json.dumps(found, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class Selection:
    """A reader of another reader's rows.

    Args:
        reader: the dataset.
        fields: names that rows shall have, by the names they have there; others stay as they are.
        share: of the rows that are held out, 0 to 1.
        heldout: give out the rows held out, not the others.
        without: fingerprints by `content_of`, of the fields named in `fields`, of rows that are left out.
    """

    def __init__(
        self, reader: Reader, fields: Mapping[str, str] | None = None, share: float = 0.0, *, heldout: bool = False,
        without: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._reader, self._share, self._heldout, self._without = reader, share, heldout, frozenset(without)
        self._contents = sorted(set((fields or {}).values()))
        self._fields = {theirs: ours for theirs, ours in (fields or {}).items() if theirs != ours}
        self.name, self.ordered = reader.name, reader.ordered
        self.num_bytes: int | None = None
        left_out = [sorted(self._without)] if self._without else []  # states from before there was such a thing hold
        self.fingerprint = digest(
            "selection", reader.fingerprint, sorted(self._fields.items()), share, heldout, *left_out
        )

    def open(self, epoch: int, position: Position | None = None) -> SelectionCursor:
        return SelectionCursor(self._reader.open(epoch, position), self, whole=position is None)

    def takes(self, row: Row) -> bool:
        """Whether a row stands on this side of the split."""
        return is_heldout(row.where, self._share) == self._heldout

    def leaves_out(self, row: Row) -> bool:
        """Whether a row, as `renamed`, is one of those that are left out."""
        return bool(self._without) and content_of(row, self._contents) in self._without

    def contents(self) -> set[int]:
        """Fingerprints of all rows, for another selection's `without`."""
        return {found for row in self.open(0) if (found := content_of(row, self._contents)) is not None}

    def renamed(self, row: Row) -> Row:
        if not self._fields:
            return row
        renamed = {ours: row.values[theirs] for theirs, ours in self._fields.items() if theirs in row.values}
        others = {name: value for name, value in row.values.items() if name not in self._fields}
        return row._replace(values={**others, **renamed})


class SelectionCursor:
    """One pass of a `Selection`; positions are those of the reader behind it."""

    def __init__(self, cursor: Cursor, selection: Selection, *, whole: bool = True) -> None:
        self._cursor, self._selection = cursor, selection
        self._left_out: int | None = 0 if whole else None  # rows, until one is given out

    def __iter__(self) -> SelectionCursor:
        return self

    def __next__(self) -> Row:
        for row in self._cursor:
            if not self._selection.takes(row):
                continue
            row = self._selection.renamed(row)
            if not self._selection.leaves_out(row):
                self._left_out = None
                return row
            if self._left_out is not None:
                self._left_out += 1
        if self._left_out:
            raise ValueError(
                f"[Selection] nothing is left of {self._selection.name}, given {self._left_out} rows that are all held "
                "out elsewhere, allowed: at least one that is not; see data.heldout_paths"
            )
        raise StopIteration

    def position(self) -> Position:
        return self._cursor.position()

    def share(self) -> float | None:
        """Of the pass that is done, as the reader behind it counts."""
        return self._cursor.share()

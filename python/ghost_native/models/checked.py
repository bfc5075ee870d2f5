"""What configurations share: values checked when made, unknown keys refused, JSON in and out."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class CheckedConfig:
    """Base of the frozen configuration dataclasses."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From keyword values; an unknown key is a ValueError that names the nearest known one."""
        known = sorted(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"[{cls.__name__}] unknown key, given {key!r}, allowed: {', '.join(known)}.{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, for :meth:`from_dict`."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            given = getattr(self, name)
            raise ValueError(f"[{type(self).__name__}] {name} is out of range, given {given!r}, allowed: {allowed}.")

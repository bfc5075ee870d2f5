"""One key of a configuration: its documentation, what it allows, and the conversion of what was given."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUTH = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a key is for and which values it takes; made by :func:`key`. In lists the bounds hold for each value."""

    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    unit: str = ""
    only: str = ""


def key(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    unit: str = "",
    only: str = "",
) -> T:
    """A field of a configuration dataclass: ``hidden: int = key(256, "width of the hidden state", low=1)``.

    Args:
        default: the value when none is given.
        doc: what the key does, in one phrase; everything that documents the key is made from it.
        low, high: least and greatest value.
        above, below: likewise, but the bound itself is not allowed.
        multiple_of: values are multiples of it.
        unit: what a number counts, such as "steps".
        only: the kind of model the key is for; empty for all.
    """
    limits = Limits(doc, low, high, above, below, multiple_of, unit, only)
    field: T = dataclasses.field(default=default, metadata={"limits": limits})
    return field


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type annotation, taken apart.

    Attributes:
        base: bool, int, float or str.
        choices: the strings allowed, of a Literal.
        optional: None is allowed.
        length: of a tuple, 0 for any length; None for a single value.
    """

    base: type
    choices: tuple[str, ...] = ()
    optional: bool = False
    length: int | None = None

    @classmethod
    def of(cls, annotation: Any) -> Kind:
        """Of bool, int, float, str, a Literal of strings, a tuple of these, or any of them or None."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (Union, types.UnionType):
            (inner,) = (a for a in arguments if a is not type(None))
            return dataclasses.replace(cls.of(inner), optional=True)
        if origin is Literal:
            return cls(str, choices=arguments)
        if origin is tuple:
            length = 0 if arguments[-1] is Ellipsis else len(arguments)
            return dataclasses.replace(cls.of(arguments[0]), length=length)
        if annotation not in _NAMES:
            raise TypeError(f"a configuration key cannot be of type {annotation!r}")
        return cls(annotation)

    def convert(self, value: Any) -> Any:
        """`value` as this kind: strings and whole floats are taken as the numbers they spell, lists as tuples.

        Raises:
            TypeError: it is something else.
        """
        if value is None and self.optional:
            return None
        if self.length is None:
            return self._convert_one(value)
        if self.base is str and isinstance(value, str):
            value = [value]  # one path may stand where a list of them may
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError
        return tuple(self._convert_one(v) for v in value)

    def _convert_one(self, value: Any) -> Any:
        if self.base in (int, float) and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value) if self.base is float or not value.strip().lstrip("+-").isdigit() else int(value)
        if self.base is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        right: type | tuple[type, ...] = {int: numbers.Integral, float: numbers.Real}.get(self.base, self.base)
        if not isinstance(value, right) or (isinstance(value, bool) and self.base is not bool):
            raise TypeError
        return self.base(value)

    def hint(self, value: Any) -> str:
        """A sentence on a value that is of another kind but can be guessed."""
        if self.base is bool and str(value).lower() in _TRUTH:
            return f"Did you mean {_TRUTH[str(value).lower()]}?"
        if self.base is str and isinstance(value, (bool, int, float)):
            return "A string that looks like something else needs quotes."
        return ""

    def words(self) -> str:
        """What is allowed, for a message: "None or a list of 2 numbers"."""
        one = " or ".join(map(repr, self.choices)) if len(self.choices) < 3 else ", ".join(map(repr, self.choices))
        one = one or _NAMES[self.base]
        if self.length is not None:
            count = f"{self.length} values" if self.length else "values"
            one = f"a list of {count}, each {one}"
        return f"None or {one}" if self.optional else one


@dataclasses.dataclass(frozen=True)
class Key:
    """Everything known about one key of a configuration class."""

    name: str
    default: Any
    kind: Kind
    limits: Limits

    def allows(self, value: Any) -> bool:
        """Whether a value of the right kind lies in the range."""
        if value is None:
            return True
        if self.kind.length is None:
            return self._allows_one(value)
        return len(value) in (self.kind.length, self.kind.length or len(value)) and all(map(self._allows_one, value))

    def _allows_one(self, value: Any) -> bool:
        if self.kind.choices:
            return value in self.kind.choices
        if self.kind.base not in (int, float):
            return True
        limits = self.limits
        return (
            math.isfinite(value)
            and (limits.low is None or value >= limits.low)
            and (limits.high is None or value <= limits.high)
            and (limits.above is None or value > limits.above)
            and (limits.below is None or value < limits.below)
            and (limits.multiple_of is None or (value > 0 and value % limits.multiple_of == 0))
        )

    def range_words(self) -> str:
        """The range in words: "at least 1", "0 to below 1", "'a' or 'b'", or the kind where there is no range."""
        limits, parts = self.limits, []
        if limits.low is not None and limits.high is not None:
            parts.append(f"{limits.low:g} to {limits.high:g}")
        elif limits.low is not None and limits.below is not None:
            parts.append(f"{limits.low:g} to below {limits.below:g}")
        elif limits.low is not None:
            parts.append("0 or more" if limits.low == 0 else f"at least {limits.low:g}")
        elif limits.high is not None:
            parts.append(f"at most {limits.high:g}")
        elif limits.below is not None:
            parts.append(f"below {limits.below:g}")
        if limits.above is not None:
            parts.insert(0, f"more than {limits.above:g}")
        if limits.multiple_of is not None:
            parts.append(f"a multiple of {limits.multiple_of}")
        if not parts:
            return self.kind.words()
        text = " and ".join(parts)
        if self.kind.length is not None:
            text = f"{self.kind.length} values, each {text}" if self.kind.length else f"values, each {text}"
        return f"None or {text}" if self.kind.optional else text

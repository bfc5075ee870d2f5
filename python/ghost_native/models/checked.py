"""What configurations share: values checked when made, unknown keys refused, JSON in and out.

A configuration is a frozen dataclass derived from :class:`CheckedConfig` whose fields are made by
:func:`~ghost_native.models.keys.key`. From the annotation and the metadata of a field come its checks, the messages,
the documentation, the editor schema and the comments of a printed configuration; :class:`Rule` states what several keys
must fulfil together.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from ghost_native.models.keys import Key, Kind

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["CheckedConfig", "ConfigError", "Rule", "did_you_mean", "keys_of"]


class ConfigError(ValueError):
    """A configuration is wrong.

    Args:
        owner: the tag of the message.
        key: the key at fault, with its path; empty where it is no key's fault.
        problem: what is wrong with it.
        given, allowed: what was given and what could have been.
        hint: a sentence at the end.
        related: other keys that took part; one of them may be the one to change.
        place: where the value comes from, such as "run.yaml:12".
    """

    def __init__(
        self, owner: str, key: str, problem: str, given: str, allowed: str, *,
        hint: str = "", related: Iterable[str] = (), place: str = "",
    ) -> None:  # fmt: skip
        self.owner, self.key, self.problem, self.given, self.allowed = owner, key, problem, given, allowed
        self.hint, self.related, self.place = hint, tuple(related), place
        subject = f"{key} {problem}" if key and problem != UNKNOWN else problem
        text = f"{subject}, given {given}, allowed: {allowed}.{hint and ' ' + hint}"
        super().__init__(f"[{owner}] {place}: {text}" if place else f"[{owner}] {text}")

    def within(self, owner: str, section: str) -> ConfigError:
        """The same error, told by the configuration of which this one is a section."""
        path = f"{section}.{self.key}"
        given = repr(path) if self.problem == UNKNOWN else self.given
        return ConfigError(
            owner, path, self.problem, given, self.allowed, hint=self.hint,
            related=[f"{section}.{name}" for name in self.related],
        )  # fmt: skip

    def placed(self, places: Mapping[str, str]) -> ConfigError:
        """The same error with the place of the key, or else of the first related key that was given somewhere."""
        place = next((places[name] for name in (self.key, *self.related) if name in places), "")
        default = "" if self.key in places or not place or self.problem == UNKNOWN else " by default"
        given, allowed = self.given, self.allowed
        if place:  # in the words of YAML
            words = {"None": "null", "True": "true", "False": "false"}
            given = words.get(given, given)
            allowed = re.sub(r"\b(None|True|False)\b", lambda match: words[match[0]], allowed)
        return ConfigError(
            self.owner, self.key, self.problem, given + default, allowed, hint=self.hint, related=self.related,
            place=place,
        )  # fmt: skip


UNKNOWN = "unknown key"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Something several keys must fulfil together.

    Attributes:
        key: the key that is at fault when it does not hold.
        allowed: what the key may be, continuing "allowed: ". Other keys are named with their values as
            "a divisor of dim = {dim}", where the braces hold an attribute of the configuration.
        holds: the check, given the configuration.
        where: when the rule applies, continuing "where "; empty for always.
    """

    key: str
    allowed: str
    holds: Callable[[Any], object]
    where: str = ""

    def sentence(self) -> str:
        """`allowed` without values."""
        return re.sub(r" = \{.*?\}", "", self.allowed)

    def related(self) -> list[str]:
        """The words of the rule that may be keys."""
        return re.findall(r"[a-z_.]+", f"{self.allowed} {self.where}")


class CheckedConfig:
    """Base of the frozen configuration dataclasses; values are converted and checked when one is made.

    Numbers may be given as strings ("1e-5"), whole numbers as floats (1e3), tuples as lists.

    Raises:
        ConfigError: a ValueError that names the key, what was given and what is allowed.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()

    def __post_init__(self) -> None:
        for name, known in keys_of(type(self)).items():
            object.__setattr__(self, name, self._checked(known, getattr(self, name)))
        for rule in self.RULES:
            self._check_rule(rule)

    def _checked(self, known: Key, value: Any) -> Any:
        owner = type(self).__name__
        try:
            converted = known.kind.convert(value)
        except (TypeError, ValueError, OverflowError):
            words, hint = known.kind.words(), known.kind.hint(value)
            raise ConfigError(owner, known.name, "has the wrong type", repr(value), words, hint=hint) from None
        if not known.allows(converted):
            finite = not isinstance(converted, float) or math.isfinite(converted)
            words, hint = known.range_words() if finite else "a finite number", ""
            if known.kind.choices:
                hint = did_you_mean(str(value), known.kind.choices)
            raise ConfigError(owner, known.name, OUT_OF_RANGE, repr(value), words, hint=hint)
        return converted

    def _check_rule(self, rule: Rule) -> None:
        if rule.holds(self):
            return
        given: Any = self
        for name in rule.key.split("."):
            given = getattr(given, name)
        allowed = rule.allowed.format_map(_Attributes(self)) + (f", where {rule.where}" if rule.where else "")
        raise ConfigError(
            type(self).__name__, rule.key, OUT_OF_RANGE, repr(given), allowed, related=rule.related()
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From keyword values; an unknown key is a ValueError that names the nearest known one."""
        known = sorted(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise ConfigError(cls.__name__, str(name), UNKNOWN, repr(name), ", ".join(known), hint=hint)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, for :meth:`from_dict`."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise ConfigError(type(self).__name__, name, OUT_OF_RANGE, repr(getattr(self, name)), allowed)


OUT_OF_RANGE = "is out of range"


class _Attributes(Mapping[str, Any]):
    """The attributes of an object, for str.format_map."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self._owner))

    def __len__(self) -> int:
        return len(vars(self._owner))


def keys_of(config: type[CheckedConfig]) -> Mapping[str, Key]:
    """The documented keys of a configuration class, in order."""
    return _keys_of(config)  # type: ignore[arg-type]  # mypy asks the instances for a hash, not the class


@functools.cache
def _keys_of(config: Any) -> Mapping[str, Key]:
    annotations = get_type_hints(config)
    return {
        field.name: Key(field.name, field.default, Kind.of(annotations[field.name]), field.metadata["limits"])
        for field in dataclasses.fields(config)
        if "limits" in field.metadata
    }


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else ""

"""A whole configuration as YAML, with a comment on every key."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from ghost_native.models.checked import CheckedConfig, keys_of
from ghost_native.models.keys import Key
from ghost_native.train.run_config.presets import ModelType

WIDTH = 120
_UNPRINTABLE = re.compile("[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_COLUMN = 32  # where comments begin, if the value leaves room


def to_yaml(model_type: ModelType, sections: Mapping[str, CheckedConfig]) -> str:
    """Sections with every key, but for those of other types of models."""
    lines: list[str] = []
    for section, config in sections.items():
        lines += ["", f"{section}:"] if lines else [f"{section}:"]
        if section == "model":
            lines += _commented(f"  type: {model_type}", "ghost or transformer")
        for name, known in keys_of(type(config)).items():
            if known.limits.only in ("", model_type):
                lines += _commented(f"  {name}: {scalar(getattr(config, name))}", comment(known))
    return "\n".join(lines) + "\n"


def comment(known: Key) -> str:
    """What a key is for and what it may be, in the words of YAML."""
    limits, words = known.limits, ""
    if None not in (limits.low, limits.high) or limits.below is not None or limits.multiple_of is not None:
        words = known.range_words().removeprefix("None or ")  # bounds such as "at least 1" are left to common sense
    elif not all(choice in limits.doc for choice in known.kind.choices):
        words = ", ".join(known.kind.choices)
    parts = [part for part in (limits.unit, words) if part]
    return yaml_words(limits.doc + (f" ({', '.join(parts)})" if parts else ""))


def yaml_words(text: str) -> str:
    """None as YAML calls it."""
    return text.replace("None", "null")


def scalar(value: Any) -> str:
    """A value as every YAML parser reads it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, float):
        mantissa, sign, exponent = repr(value).partition("e")
        point = "" if "." in mantissa else ".0"  # without it, 1e-05 is a string to YAML 1.1
        return f"{mantissa}{point}{sign}{exponent}" if sign else mantissa
    text = json.dumps(value, ensure_ascii=False)  # JSON's strings, numbers, true and null are YAML's
    return _UNPRINTABLE.sub(lambda match: f"\\U{ord(match[0]):08x}", text)


def _commented(text: str, remark: str) -> list[str]:
    """The comment behind the value, or above it where it is too long."""
    line = f"{text:<{_COLUMN}}  # {remark}"
    if len(line) <= WIDTH:
        return [line]
    return [*(f"  # {part}" for part in textwrap.wrap(remark, WIDTH - 4, break_on_hyphens=False)), text]

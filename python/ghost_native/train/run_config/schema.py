"""A JSON Schema of run files, with which editors complete keys, show what they are for and mark mistakes."""

from __future__ import annotations

from typing import Any

from ghost_native.data.config import DataConfig
from ghost_native.models.checked import CheckedConfig, keys_of
from ghost_native.models.keys import Key
from ghost_native.train.run_config.names import ALIASES, ALL_KEYS, MODELS, SECTIONS
from ghost_native.train.run_config.presets import PRESETS
from ghost_native.train.run_config.printing import comment
from ghost_native.train.run_config.train_section import TrainSection

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_BOUNDS = {"low": "minimum", "high": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum",
           "multiple_of": "multipleOf"}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """The schema, draft 7, which editors know best. What several keys must fulfil together is not in it."""
    sections = {"data": _section(DataConfig), "train": _section(TrainSection)}
    models = []
    for model_type, config in MODELS.items():
        schema = _section(config)
        kind = {"const": model_type, "description": "kind of model; without it, the kind whose keys are given"}
        schema["properties"] = {"type": kind, **schema["properties"]}
        models.append({"title": model_type, **schema})
    for alias, path in ALIASES.items():
        section, name = path.split(".")
        owners = models if section == "model" else [sections[section]]
        for properties in (owner["properties"] for owner in owners if name in owner["properties"]):
            same = {**properties[name], "description": f"the same as {path}"}
            properties |= {other: same for other in (alias, alias.upper()) if other != name}
            if alias == "seq_len":
                sections["train"]["properties"] |= {alias: same, alias.upper(): same}
    nested = {"model": {"anyOf": models}, **sections}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A run of ghost_native",
        "type": "object",
        "properties": {
            "preset": {"enum": list(PRESETS), "description": "values to start from; those in the file override them"},
            **{section: nested[section] for section in SECTIONS},
            **_at_the_top([*models, *sections.values()]),
        },
        "additionalProperties": False,
    }


def _at_the_top(sections: list[dict[str, Any]]) -> dict[str, Any]:
    """Keys that may stand without their section: those that only one section has, and short names."""
    names = [path.split(".")[1] for path in ALL_KEYS]
    found = {name: schema for section in sections for name, schema in section["properties"].items()}
    found = {name: schema for name, schema in found.items() if names.count(name) < 2}
    return found | {"type": {"enum": list(MODELS)}}


def _section(config: type[CheckedConfig]) -> dict[str, Any]:
    properties = {name: key_schema(known) for name, known in keys_of(config).items()}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def key_schema(known: Key) -> dict[str, Any]:
    """The schema of one key's value."""
    kind = known.kind
    one: dict[str, Any] = {"type": _TYPES[kind.base]}
    if kind.choices:
        one = {"enum": list(kind.choices)}
    for bound, word in _BOUNDS.items():
        value = getattr(known.limits, bound)
        if value is not None:
            one[word] = value
    if known.limits.multiple_of is not None:
        one["minimum"] = known.limits.multiple_of
    options: list[dict[str, Any]] = [one]
    if kind.length is not None:
        many: dict[str, Any] = {"type": "array", "items": one}
        if kind.length:
            many |= {"minItems": kind.length, "maxItems": kind.length}
        options = [many, one] if kind.base is str else [many]
    if kind.optional:
        options.append({"type": "null"})
    default = list(known.default) if isinstance(known.default, tuple) else known.default
    found = options[0] if len(options) == 1 else {"anyOf": options}
    return {"description": comment(known), **found, "default": default}

"""From what was given in several places to the values of one run: defaults < preset < file < changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from ghost_native.data.config import FIELDS, HELDOUT, OF_DATASETS, PYTHON
from ghost_native.models.checked import ConfigError, did_you_mean, keys_of
from ghost_native.train.run_config.names import MODELS, OWNER, SECTIONS, check_known, full_name
from ghost_native.train.run_config.presets import GHOST_DEFAULTS, PRESETS, ModelType

# Of each pair one is given. What a layer says of one of them takes back what the layers below say of the other.
_EITHER: Mapping[str, tuple[str, Any]] = {
    "train.total_steps": ("train.seconds", None),
    "train.seconds": ("train.total_steps", None),
    "data.paths": ("data.dataset", None),
    "data.dataset": ("data.paths", ()),
    "data.heldout": ("data.heldout_paths", ()),
    "data.heldout_paths": ("data.heldout", HELDOUT),
}
# What a layer says of the data that it names; it goes with them where a layer above names others in their place.
_SAID_OF: Mapping[str, tuple[str, ...]] = {
    "data.dataset": tuple(f"data.{name}" for name in (*OF_DATASETS, *FIELDS, "shuffle_buffer")),
    "data.paths": tuple(f"data.{name}" for name in ("format", *FIELDS)),
}


class Given(NamedTuple):
    """One value: the key as written, and where, such as "run.yaml:12"; no place for what comes from Python."""

    name: str
    value: Any
    place: str = ""


Layer = Mapping[str, Given]
"""Values by full name, all given with the same right."""


class Resolved(NamedTuple):
    """What the layers come to: the values of each section, and the place each value comes from."""

    model_type: ModelType
    sections: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, str]


def layer_of(values: Iterable[Given]) -> Layer:
    """Values by the full names of their keys.

    Raises:
        ConfigError: an unknown key outside the sections, or a key given twice under different names.
    """
    layer: dict[str, Given] = {}
    for given in values:
        path = "preset" if given.name == "preset" else full_name(given.name, given.place)
        if path in layer:
            both = " and ".join(f"{g.name} = {g.value!r}" for g in (layer[path], given))
            raise ConfigError(OWNER, path, "is given twice", both, "one of them", place=given.place)
        layer[path] = given
    return layer


def flatten(tree: Mapping[Any, Any], places: Mapping[tuple[str, ...], str] | None = None) -> list[Given]:
    """The values of a tree of sections; keys may also stand at the top, without their section.

    Raises:
        ConfigError: a section is no mapping, or there are mappings that are no sections.
    """
    where, found = places or {}, []
    for name, value in tree.items():
        place = where.get((name,), "")
        if name in SECTIONS:
            if not isinstance(value, Mapping | None):
                raise ConfigError(OWNER, name, "has the wrong type", repr(value), "keys and values", place=place)
            items = (value or {}).items()
            found += [Given(f"{name}.{key}", v, where.get((name, str(key)), "")) for key, v in items]
        else:
            found.append(Given(str(name), value, place))
    return found


def resolve(layers: Sequence[Layer], preset: str | None = None) -> Resolved:
    """Merge layers, the later ones over the earlier, upon the preset and the defaults of the model's type.

    Args:
        layers: what was given.
        preset: in place of the one that the layers name.

    Raises:
        ConfigError: unknown keys, an unknown preset or type, or a preset of the other type of model.
    """
    named = [layer["preset"] for layer in layers if "preset" in layer]
    if preset is not None:
        named.append(Given("preset", preset))
    given: list[Layer] = [{path: value for path, value in layer.items() if path != "preset"} for layer in layers]
    if named:
        given.insert(0, _preset_layer(named[-1]))
    model_type = _model_type(given[1:] if named else given, given[0].get("model.type") if named else None)
    for layer in given:
        for path, value in layer.items():
            check_known(path, value.place, model_type)
    defaults = GHOST_DEFAULTS if model_type == "ghost" else {}
    merged = _merged([{path: Given(path, value) for path, value in defaults.items()}, *given])
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for path, (_, value, _) in merged.items():
        section, name = path.split(".")
        sections[section][name] = value
    sections["model"].pop("type", None)
    return Resolved(model_type, sections, {path: g.place for path, g in merged.items() if g.place})


def _merged(layers: Sequence[Layer]) -> dict[str, Given]:
    """The later layers over the earlier ones, less what these take back."""
    merged: dict[str, Given] = {}
    layer_of_key: dict[str, int] = {}
    for number, layer in enumerate(layers):
        for path, given in layer.items():
            if path == "data.dataset" and given.value == PYTHON:
                _forget(path, merged, layer_of_key)  # which is text, not a dataset of records
            if path not in _EITHER or given.value in (None, (), [], "") or _EITHER[path][0] in layer:
                continue
            other, nothing = _EITHER[path]
            _forget(other, merged, layer_of_key)
            merged[other] = Given(other, nothing)
        merged.update(layer)
        layer_of_key |= dict.fromkeys(layer, number)
    return merged


def _forget(path: str, merged: dict[str, Given], layer_of_key: Mapping[str, int]) -> None:
    """Take back what was said of the data named by a key: by the layer that names them, and by those below."""
    if path in merged and merged[path].value:
        for said in _SAID_OF.get(path, ()):
            if layer_of_key.get(said, 0) <= layer_of_key.get(path, 0):
                merged.pop(said, None)


def _preset_layer(given: Given) -> Layer:
    if not isinstance(given.value, str) or given.value not in PRESETS:
        hint = did_you_mean(str(given.value), PRESETS)
        raise ConfigError(
            OWNER, "preset", "is unknown", repr(given.value), ", ".join(PRESETS), hint=hint, place=given.place
        )
    return {path: Given(path, value, f"preset {given.value}") for path, value in PRESETS[given.value].items()}


def _model_type(layers: Sequence[Layer], preset: Given | None) -> ModelType:
    """The type that was given, or else the one whose keys were; Ghost where nothing speaks against it."""
    stated = next((layer["model.type"] for layer in reversed(layers) if "model.type" in layer), None)
    if stated and stated.value not in get_args(ModelType):
        hint = did_you_mean(str(stated.value), get_args(ModelType))
        raise ConfigError(
            OWNER, "model.type", "is out of range", repr(stated.value), "'ghost' or 'transformer'", hint=hint,
            place=stated.place,
        )  # fmt: skip
    if preset and stated and stated.value != preset.value:
        raise ConfigError(
            OWNER, "model.type", "does not fit", repr(stated.value), f"{preset.value!r} with {preset.place}",
            place=stated.place,
        )  # fmt: skip
    decided = stated or preset
    if decided:
        return "ghost" if decided.value == "ghost" else "transformer"
    given = {path: value.value for layer in layers for path, value in layer.items()}
    ghost, transformer = ({f"model.{name}" for name in keys_of(config)} for config in MODELS.values())
    if given.keys() & (transformer - ghost):
        return "transformer"
    return "transformer" if given.get("train.tokenizer_path") and not given.keys() & (ghost - transformer) else "ghost"

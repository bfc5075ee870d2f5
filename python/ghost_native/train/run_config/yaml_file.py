"""Reading YAML 1.2, in which 1e-5 is a number, and keeping the line of every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghost_native.models.checked import ConfigError
from ghost_native.train.run_config.layers import Given, Layer, flatten, layer_of
from ghost_native.train.run_config.names import OWNER

_DEPTH = 8  # of lists and mappings in each other; more than any key takes, and an end to what contains itself
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}
_TEXTS = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp")}


def read_file(text: str, name: str) -> Layer:
    """The values in the text of a YAML file.

    Args:
        text: the text.
        name: of the file, for places such as "run.yaml:12".

    Raises:
        ConfigError: it is no YAML, a key stands twice in one mapping, or it is no mapping of sections.
        ImportError: ruamel.yaml is not installed.
    """
    places: dict[tuple[str, ...], str] = {}
    tree = _Reader(name, places).read(text)
    if not isinstance(tree, Mapping | None):
        raise ConfigError(OWNER, "", "no sections", repr(tree), "model, data and train", place=f"{name}:1")
    return layer_of(flatten(tree or {}, places))


def read_change(text: str) -> Layer:
    """The value in "train.lr=1e-3"; the part behind the sign is YAML.

    Raises:
        ConfigError: there is no sign, or no YAML behind it.
        ImportError: ruamel.yaml is not installed.
    """
    place = f"--set {text}"
    path, sign, value = text.partition("=")
    path = path.strip()
    if not sign or not path:
        raise ConfigError(OWNER, "", "a change without key or value", repr(text), "KEY=VALUE, such as train.lr=1e-3")
    parsed = _Reader(place, None).read(value)
    section, _, rest = path.partition(".")
    tree = {section: {rest: parsed}} if rest else {path: parsed}
    return layer_of([Given(g.name, g.value, place) for g in flatten(tree)])


class _Reader:
    """Turns the nodes of a YAML text into values; notes the places of the keys of two levels."""

    def __init__(self, name: str, places: dict[tuple[str, ...], str] | None) -> None:
        self.name, self.places = name, places

    def read(self, text: str) -> Any:
        try:
            from ruamel.yaml import YAML
            from ruamel.yaml.error import MarkedYAMLError, YAMLError
        except ModuleNotFoundError as error:
            raise ImportError(f"[{OWNER}] needs ruamel.yaml: pip install 'ghost-native[train]'") from error
        self.yaml = YAML(typ="safe", pure=True)
        try:
            node = self.yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(str(error.problem or error.context).split())
            raise self._error(mark, "not valid YAML", problem, "YAML 1.2") from error
        except YAMLError as error:
            raise self._error(None, "not valid YAML", " ".join(str(error).split()), "YAML 1.2") from error
        return None if node is None else self._value(node, ())

    def _value(self, node: Any, path: tuple[str, ...]) -> Any:
        if len(path) > _DEPTH:
            raise self._error(node.start_mark, "too deep", ".".join(path), "sections with keys")
        if node.id == "mapping":
            return self._mapping(node, path)
        if node.id == "sequence":
            return [self._value(child, (*path, str(i))) for i, child in enumerate(node.value)]
        if node.style is None and node.value == "None":
            raise self._error(node.start_mark, "not YAML but Python", "None", "null, or the word in quotes")
        if node.tag in _SCALARS:
            try:
                return self.yaml.constructor.construct_object(node)
            except ValueError:  # such as !!int x
                return str(node.value)
        if node.tag not in _TEXTS:
            raise self._error(node.start_mark, "an unknown tag", str(node.tag), "values without tags")
        return str(node.value)

    def _mapping(self, node: Any, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.id != "scalar":
                raise self._error(key_node.start_mark, "a key that is a list or a mapping", "one", "names")
            name = str(key_node.value)
            if name in lines:
                given = f"{'.'.join((*path, name))!r} again after line {lines[name]}"
                raise self._error(key_node.start_mark, "a key twice", given, "every key once")
            lines[name] = key_node.start_mark.line + 1
            if self.places is not None:
                self.places[(*path, name)] = self._place(key_node.start_mark)
            values[name] = self._value(value_node, (*path, name))
        return values

    def _place(self, mark: Any) -> str:
        return self.name if self.places is None or mark is None else f"{self.name}:{mark.line + 1}"

    def _error(self, mark: Any, problem: str, given: str, allowed: str) -> ConfigError:
        return ConfigError(OWNER, "", problem, given, allowed, place=self._place(mark))

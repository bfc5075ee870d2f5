"""A run: the configuration of a model, its data and its training, checked together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ghost_native.data.config import DataConfig
from ghost_native.models.checked import CheckedConfig, ConfigError, Rule, keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.train.run_config.layers import Given, Layer, flatten, layer_of, resolve
from ghost_native.train.run_config.names import MODELS, OWNER
from ghost_native.train.run_config.presets import ModelType
from ghost_native.train.run_config.printing import to_yaml
from ghost_native.train.run_config.train_section import TrainSection
from ghost_native.train.run_config.yaml_file import read_change, read_file

# Keys that are about the choice of layers, and where it is off about nothing. They are no error then: they may stand in
# a file whatever `routing` is set to.
OF_ROUTING = ("model.max_depth", "model.min_depth", "model.threshold", "train.target_depth", "train.depth_weight")

# Tokens besides the 256 bytes: beginning and end of text, padding, and the three speakers of a chat.
BYTE_SPECIALS = 6


@dataclasses.dataclass(frozen=True)
class RunConfig(CheckedConfig):
    """Everything that fixes a run. Nothing is read from disk but YAML: paths are not looked at.

    Attributes:
        model: a Ghost or a transformer.
        data: what it learns from.
        train: how it learns.
    """

    model: GhostConfig | TransformerConfig
    data: DataConfig
    train: TrainSection

    RULES = (
        Rule("data.seq_len", "at most model.max_seq_len = {model.max_seq_len}",
             lambda r: r.model_type == "ghost" or r.data.seq_len <= r.model.max_seq_len,
             where="model.type is transformer"),
        Rule("model.vocab_size", "at least 256, for bytes",
             lambda r: r.model_type == "ghost" or r.train.tokenizer_path or r.model.vocab_size >= 256,
             where="train.tokenizer_path is None"),
        Rule("model.vocab_size", f"at least {256 + BYTE_SPECIALS}, for bytes and special tokens",
             lambda r: r.model_type == "ghost" or r.train.tokenizer_path or r.train.stage == "pretrain"
             or r.model.vocab_size >= 256 + BYTE_SPECIALS,
             where="train.tokenizer_path is None and train.stage is sft or dpo"),
        Rule("train.tokenizer_path", "None, for bytes",
             lambda r: r.model_type == "transformer" or r.train.tokenizer_path is None,
             where="model.type is ghost"),
        Rule("model.num_specials", f"at least {BYTE_SPECIALS}, to mark who speaks",
             lambda r: r.model_type == "transformer" or r.train.stage == "pretrain"
             or r.model.num_specials >= BYTE_SPECIALS,
             where="model.type is ghost and train.stage is sft or dpo"),
        Rule("data.format", "'jsonl' or 'auto', for records with prompts and answers",
             lambda r: r.train.stage == "pretrain" or r.data.format in ("jsonl", "auto"),
             where="train.stage is sft or dpo"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in keys_of(TrainSection).items():
            value = getattr(self.train, name)
            if known.limits.only not in ("", self.model_type) and value != known.default:
                allowed = f"{known.default!r}, its default, with model.type = {self.model_type}"
                raise ConfigError(OWNER, f"train.{name}", "has no effect", repr(value), allowed, related=["model.type"])

    @property
    def model_type(self) -> ModelType:
        return "ghost" if isinstance(self.model, GhostConfig) else "transformer"

    def remarks(self) -> list[str]:
        """A sentence on every key that was changed where it has no effect, though it may stand there."""
        if not isinstance(self.model, GhostConfig) or self.model.routing:
            return []
        names = [name for name in OF_ROUTING if self._changed(name)]
        return [f"{name} has no effect while model.routing is false" for name in names]

    def _changed(self, path: str) -> bool:
        section, name = path.split(".")
        part: CheckedConfig = getattr(self, section)
        return bool(getattr(part, name) != keys_of(type(part))[name].default)

    @classmethod
    def load(
        cls,
        path: str | Path | None,
        *,
        preset: str | None = None,
        values: Mapping[str, Any] | None = None,
        changes: Iterable[str] = (),
    ) -> RunConfig:
        """From a YAML file, upon a preset, with changes such as "train.lr=1e-3" on top.

        Args:
            path: the file; None for none.
            preset: a name out of `PRESETS`, in place of the one that the file names.
            values: of keys such as "train.lr", in place of those in the file.
            changes: a later one overrides an earlier one.

        Raises:
            ConfigError: a ValueError that names place, key, what was given and what is allowed.
            OSError: the file cannot be read.
            ImportError: ruamel.yaml is not installed.
        """
        try:
            text = "" if path is None else Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            given = f"bytes that are no UTF-8 at {error.start}"
            raise ConfigError(OWNER, "", "not valid YAML", given, "YAML 1.2", place=str(path)) from None
        return cls.parse(text, name=str(path), preset=preset, values=values, changes=changes)

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        name: str = "text",
        preset: str | None = None,
        values: Mapping[str, Any] | None = None,
        changes: Iterable[str] = (),
    ) -> RunConfig:
        """As `load`, from the text of a file. `name` stands for the file in messages."""
        layers = [read_file(text, name)] if text else []
        if values:
            layers.append(layer_of([Given(key, value, "the command line") for key, value in values.items()]))
        return cls._of([*layers, *map(read_change, changes)], preset)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, preset: str | None = None) -> RunConfig:
        """From sections of values, under all the names that a file may use."""
        return cls._of([layer_of(flatten(values))], preset)

    @classmethod
    def _of(cls, layers: list[Layer], preset: str | None) -> RunConfig:
        model_type, sections, places = resolve(layers, preset)
        kinds = {"model": MODELS[model_type], "data": DataConfig, "train": TrainSection}
        try:
            made: dict[str, Any] = {name: _section(name, kind, sections[name]) for name, kind in kinds.items()}
            return cls(**made)
        except ConfigError as error:
            raise error.placed(places) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, for :meth:`from_dict`."""
        return {
            "model": {"type": self.model_type, **self.model.to_dict()},
            "data": self.data.to_dict(),
            "train": self.train.to_dict(),
        }

    def to_yaml(self) -> str:
        """Every value as YAML, with a comment on every key; :meth:`parse` gives the same configuration back."""
        return to_yaml(self.model_type, {"model": self.model, "data": self.data, "train": self.train})


def _section(name: str, kind: type[CheckedConfig], values: Mapping[str, Any]) -> CheckedConfig:
    try:
        return kind(**values)
    except ConfigError as error:
        raise error.within(OWNER, name) from None

"""What keys are called: their sections, the other names they go by, and the nearest one to a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ghost_native.data.config import DataConfig
from ghost_native.models.checked import UNKNOWN, CheckedConfig, ConfigError, did_you_mean, keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.train.run_config.presets import ModelType
from ghost_native.train.run_config.train_section import TrainSection

OWNER = "RunConfig"
MODELS: Mapping[ModelType, type[GhostConfig] | type[TransformerConfig]] = {
    "ghost": GhostConfig,
    "transformer": TransformerConfig,
}
SECTIONS = ("model", "data", "train")

# Short names, which may also be written in capitals.
ALIASES: Mapping[str, str] = {
    "dim": "model.dim",
    "layers": "model.num_layers",
    "max_depth": "model.max_depth",
    "threshold": "model.threshold",
    "batch_size": "train.micro_batch_size",
    "seq_len": "data.seq_len",
    "learning_rate": "train.lr",
    "steps": "train.total_steps",
    "checkpoint_every": "train.ckpt_interval",
}


def section_keys(section: str, model_type: ModelType) -> list[str]:
    """The keys of a section, for one type of model."""
    if section == "model":
        return ["type", *keys_of(MODELS[model_type])]
    config: type[CheckedConfig] = DataConfig if section == "data" else TrainSection
    return list(keys_of(config))


def _paths() -> list[str]:
    return [f"{s}.{name}" for s in SECTIONS for m in MODELS for name in section_keys(s, m)]


ALL_KEYS: tuple[str, ...] = tuple(dict.fromkeys(_paths()))
"""Every key with its section, of all types of models."""


def full_name(written: str, place: str) -> str:
    """The path of a key from how it was written: in its section or at the top, by its own name or a short one.

    Raises:
        ConfigError: at the top, a name that no section has, or that several have.
    """
    section, _, name = written.rpartition(".")
    name = name.lower() if name.isupper() and name.lower() in ALIASES else name
    alias = ALIASES.get(name)
    # Many count seq_len among the settings of training.
    if alias and (section == alias.split(".")[0] or not section or (section, name) == ("train", "seq_len")):
        return alias
    if section:
        return f"{section}.{name}"
    owners = [path for path in ALL_KEYS if path.endswith(f".{name}")]
    if len(owners) > 1:
        raise ConfigError(OWNER, written, "is ambiguous", "no section", " or ".join(owners), place=place)
    if not owners:
        allowed = f"{', '.join(SECTIONS)}, preset, and the keys of these sections"
        names = (*SECTIONS, "preset", *ALIASES, *(path.split(".")[1] for path in ALL_KEYS))
        hint = did_you_mean(written, names)
        raise ConfigError(OWNER, written, UNKNOWN, repr(written), allowed, hint=hint, place=place)
    return owners[0]


def check_known(path: str, place: str, model_type: ModelType) -> None:
    """That a path is a key of its section.

    Raises:
        ConfigError: it is not; the nearest name is given, or where the key belongs.
    """
    section, _, name = path.partition(".")
    known = section_keys(section, model_type)
    if name in known:
        return
    other = next((m for m in MODELS if section == "model" and name in section_keys(section, m)), None)
    hint = f"It is a key of model.type: {other}." if other else _nearest(section, name, known)
    allowed = f"the keys of {section}" if hint else ", ".join(sorted(known))
    raise ConfigError(OWNER, path, UNKNOWN, repr(path), allowed, hint=hint, place=place)


def _nearest(section: str, name: str, known: list[str]) -> str:
    """Where a key of this name belongs, or else the nearest name: of the section if there is one, or of all."""
    elsewhere = {path.split(".")[1]: path for path in (*ALIASES.values(), *ALL_KEYS)} | dict(ALIASES)
    if name in elsewhere:
        return f"Did you mean {elsewhere[name]!r}?"
    own = {alias for alias, path in ALIASES.items() if path.startswith(f"{section}.")}
    for paths in ({near: f"{section}.{near}" for near in (*known, *own)}, elsewhere):
        near = difflib.get_close_matches(name.lower(), paths, n=1)
        if near:
            return f"Did you mean {paths[near[0]]!r}?"
    return ""

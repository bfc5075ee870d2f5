"""The documentation of every key, made from the configuration classes."""

from __future__ import annotations

from collections.abc import Iterable

from ghost_native.data.config import DataConfig
from ghost_native.models.checked import CheckedConfig, keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.train.run_config.names import ALIASES
from ghost_native.train.run_config.presets import GHOST_DEFAULTS, PRESETS
from ghost_native.train.run_config.printing import scalar, yaml_words
from ghost_native.train.run_config.run import RunConfig
from ghost_native.train.run_config.train_section import TrainSection

_INTRODUCTION = """\
# Configuration

One YAML file describes a run, in three sections. A small one is enough; what it leaves out has a default:

```yaml
model:
  n_layers: 6
  d_model: 256
  n_heads: 8
  vocab_size: 256

data:
  paths: [books/]
  seq_len: 512

train:
  total_steps: 2000
  lr: 1e-3
```

Reading YAML, and `--set` with it, takes `pip install 'ghost-native[train]'`; presets and the other options do without.

[configs/](../configs) holds annotated examples. Values come from four places, each over the one before:

1. the defaults below; some are different for `model.type: ghost`;
2. a preset, named on the command line or by a line `preset: production` in the file;
3. the file;
4. changes on the command line, such as `--set train.lr=1e-3`.

`model.type` is `ghost` or `transformer`. Without it, a key that only transformers have (`n_layers`, `d_model`,
`n_heads`, `vocab_size` and so on) means a transformer, and so does a tokenizer where no key of a Ghost is given;
anything else means a Ghost.

Files are YAML 1.2: `1e-5` is a number, `no` is a string. Strings that spell a number are taken as one. A key may stand
at the top, without its section, where only one section has it. An unknown key, a key given twice and a value out of
range are errors that name file and line:

```
run.yaml:3: model.n_heads is out of range, given 7, allowed: a divisor of d_model = 768.
run.yaml:12: unknown key, given 'train.warmup', allowed: the keys of train. Did you mean 'train.warmup_steps'?
```

Editors that know JSON Schema complete the keys and show these descriptions when a file begins with
`# yaml-language-server: $schema=` and the path of [configs/schema.json](../configs/schema.json).
"""

_OF_PRESETS = """\
A size of model by name. Of a Ghost, `quick_test` shows in seconds whether all works, `speed` is for experiments,
`production` is the usual size, `maximum` wants much text and time, and `phone` takes next to no memory. They also say
how long a run is, and more steps make it better; their rates are those that suit 2-bit weights with AdamW at these
widths.
Presets of a transformer are sizes alone: how long and how fast is as by default, or as you say.

"""

_SECTIONS: list[tuple[str, str, type[CheckedConfig]]] = [
    ("`model`, of a Ghost", "model", GhostConfig),
    ("`model`, of a transformer", "model", TransformerConfig),
    ("`data`", "data", DataConfig),
    ("`train`", "train", TrainSection),
]


def markdown() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for title, section, config in _SECTIONS:
        parts.append(f"## {title}\n\n{_keys(section, config)}")
    parts.append(f"## What must fit together\n\n{_rules()}")
    parts.append(f"## Presets\n\n{_presets()}")
    parts.append(f"## Other names\n\n{_aliases()}")
    return "\n".join(parts)


def _keys(section: str, config: type[CheckedConfig]) -> str:
    rows = []
    for name, known in keys_of(config).items():
        default = f"`{scalar(known.default)}`"
        path = f"{section}.{name}"
        if path in GHOST_DEFAULTS and config is not GhostConfig:
            default += f"; ghost `{scalar(GHOST_DEFAULTS[path])}`"
        allowed = known.range_words().replace("'", "`")
        unit = f", in {known.limits.unit}" if known.limits.unit else ""
        only = f" (only {known.limits.only})" if known.limits.only else ""
        rows.append((f"`{name}`", default, yaml_words(allowed) + unit, yaml_words(known.limits.doc) + only))
    return _table(("key", "default", "allowed", "what it does"), rows)


def _rules() -> str:
    rows = []
    configs: list[tuple[str, type[CheckedConfig]]] = [(section, config) for _, section, config in _SECTIONS]
    configs.append(("", RunConfig))
    for section, config in configs:
        for rule in config.RULES:
            path = f"{section}.{rule.key}" if section else rule.key
            rows.append((f"`{path}`", *(yaml_words(text.replace("'", "`")) for text in (rule.sentence(), rule.where))))
    only = ("keys of `train` that are only for one type of model", "as they are by default", "model.type is another")
    return _table(("key", "must be", "where"), [*rows, only])


def _presets() -> str:
    rows = []
    for name, values in PRESETS.items():
        shown = (f"`{path}: {scalar(value)}`" for path, value in values.items() if path != "model.type")
        rows.append((f"`{name}`", str(values["model.type"]), ", ".join(shown)))
    return _OF_PRESETS + _table(("preset", "type", "values"), rows)


def _aliases() -> str:
    rows = [(f"`{alias}`, `{alias.upper()}`", f"`{path}`") for alias, path in ALIASES.items()]
    text = "These may stand at the top of a file or in the section of the key they mean; `seq_len` also in `train`.\n\n"
    return text + _table(("name", "means"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)

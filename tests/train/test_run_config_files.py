"""The files that go with the configuration: examples, the schema and the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from ghost_native.models.checked import keys_of
from ghost_native.train.run_config import PRESETS, RunConfig
from ghost_native.train.run_config.__main__ import generated
from ghost_native.train.run_config.names import ALIASES, ALL_KEYS
from ghost_native.train.run_config.reference import _SECTIONS as SECTIONS
from ghost_native.train.run_config.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCHEMA = jsonschema.Draft7Validator(json_schema())
DOCS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
NAMES = "dpo maximum memory_constrained minimal phone pretrain production questions quick_test sft speed"


def plain(text):
    """As an editor reads it."""
    return YAML(typ="safe", pure=True).load(text)


def test_all_examples_are_there():
    assert [path.stem for path in CONFIGS] == NAMES.split()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_examples(path):
    text = path.read_text(encoding="utf-8")
    run = RunConfig.load(path)
    assert text.startswith("# yaml-language-server: $schema=schema.json\n# ")
    assert max(map(len, text.splitlines())) <= 120
    assert bool(run.data.dataset) != bool(run.data.paths)
    assert run.train.save_dir == f"checkpoints/{path.stem}"
    assert RunConfig.parse(run.to_yaml()) == run
    SCHEMA.validate(plain(text))
    SCHEMA.validate(plain(run.to_yaml()))


@pytest.mark.parametrize("name", [name for name, values in PRESETS.items() if values["model.type"] == "ghost"])
def test_examples_of_presets_are_the_presets(name):
    run = RunConfig.load(ROOT / "configs" / f"{name}.yaml")
    for path, expected in PRESETS[name].items():
        section, key = path.split(".")
        assert path == "model.type" or getattr(getattr(run, section), key) == expected


# Files as people write them, whole and in part.
MODEL = """
model:
  vocab_size: 32000
  n_layers: 12
  d_model: 768
  n_heads: 12
  mlp_multiple: 4.0
  dropout: 0.1
  max_seq_len: 4096
  rope_theta: 10000.0
  ffn_activation: "silu"
  norm_eps: 1e-5
  tie_embeddings: true
"""
DATA = """
data:
  dataset: "allenai/c4"
  config: "en"
  split: "train"
  text_field: "text"
  seq_len: 2048
  shuffle_buffer: 1000
  num_workers: 2
  cache_dir: null
  streaming: true
"""
TRAIN = """
train:
  total_steps: 50000
  micro_batch_size: 1
  grad_accum_steps: 4
  lr: 3e-4
  min_lr: 3e-5
  warmup_steps: 1000
  weight_decay: 0.02
  max_grad_norm: 1.0
  log_interval: 25
  eval_interval: 500
  ckpt_interval: 2000
  ckpt_keep: 3
  log_path: null
  save_dir: "checkpoints/pretrain"
  precision: "float16"
  compile: false
  gradient_checkpointing: true
  tokenizer_path: "data/tokenizer.model"
  checkpoint_path: null
"""
MINIMAL = """
model: {vocab_size: 32000, n_layers: 6, d_model: 512, n_heads: 8}
data: {dataset: "allenai/c4", config: "en", seq_len: 1024}
train: {total_steps: 100, grad_accum_steps: 1, lr: 1e-3, warmup_steps: 10, ckpt_interval: 50}
"""
FULL = """
model: {vocab_size: 32000, n_layers: 12, d_model: 768, n_heads: 12}
data: {dataset: "EliMC/Ultra-FineWeb", text_field: "content", seq_len: 2048}
train: {total_steps: 50000, grad_accum_steps: 4, lr: 3e-4, warmup_steps: 1000, ckpt_interval: 2000, ckpt_keep: 3}
"""
CONSTRAINED = """
model: {vocab_size: 32000, n_layers: 8, d_model: 512, n_heads: 8}
data: {seq_len: 1024}
train: {micro_batch_size: 1, grad_accum_steps: 2, gradient_checkpointing: true, precision: "float16"}
"""
LITTLE = 'micro_batch_size: 1\ngrad_accum_steps: 1\nseq_len: 1024\ngradient_checkpointing: true\nprecision: "float16"\n'
MORE = LITTLE.replace("steps: 1", "steps: 4").replace("1024", "2048")
RATES = ["lr: 3e-4\nmin_lr: 3e-5\nwarmup_steps: 1000\n", "lr: 1e-3\nmin_lr: 1e-4\nwarmup_steps: 500\n",
         "lr: 1e-4\nmin_lr: 1e-5\nwarmup_steps: 2000\n", "lr: 3e-4\nweight_decay: 0.02\n"]  # fmt: skip
TRANSFORMER = "model: {type: transformer}\n"
TUNING = [
    "{dim: 128, layers: 4, batch_size: 16, seq_len: 64, learning_rate: 3e-4, steps: 100}",
    "{dim: 256, layers: 6, batch_size: 16, seq_len: 256, learning_rate: 3e-4, steps: 500}",
    "{dim: 512, layers: 8, batch_size: 8, seq_len: 512, learning_rate: 1e-4, steps: 2000}",
    "{DIM: 128, LAYERS: 4, BATCH_SIZE: 32, SEQ_LEN: 64, STEPS: 100}",
    "{DIM: 256, LAYERS: 6, BATCH_SIZE: 16, SEQ_LEN: 256, STEPS: 500}",
    "{DIM: 64, LAYERS: 2, BATCH_SIZE: 4, SEQ_LEN: 32}",
]
WHOLE = [MODEL + DATA + TRAIN, MODEL, DATA, TRAIN, MINIMAL, FULL, CONSTRAINED, LITTLE, MORE]


@pytest.mark.parametrize("text", [*WHOLE, *(TRANSFORMER + rates for rates in RATES), *TUNING])
def test_files_as_people_write_them(text):
    run = RunConfig.parse(text)
    given = plain(text)
    for name, value in given.items():
        for key, inner in value.items() if isinstance(value, dict) else [(name, value)]:
            alias = ALIASES.get(key.lower(), "").split(".")[-1]
            key = key if any(path.endswith(f".{key}") for path in ALL_KEYS) else alias
            found = [getattr(part, key) for part in (run.model, run.data, run.train) if hasattr(part, key)]
            assert key == "type" or found == [inner], key
    SCHEMA.validate(given)


def test_short_names_spell_the_presets():
    for text, name in zip(TUNING[3:], ("speed", "production", "phone"), strict=True):
        run, preset = RunConfig.parse(text), RunConfig.parse("", preset=name)
        assert (run.model, run.data, run.train.total_steps) == (preset.model, preset.data, preset.train.total_steps)
        assert run.train.micro_batch_size == preset.train.micro_batch_size


@pytest.mark.parametrize(("what", "path"), [("docs", "docs/configuration.md"), ("schema", "configs/schema.json")])
def test_generated_files_are_current(what, path):
    command = f"python -m ghost_native.train.run_config {what} > {path}"
    assert (ROOT / path).read_text(encoding="utf-8") == generated(what), f"run: {command}"


def test_the_documentation_has_every_key_and_alias_and_preset():
    for _, section, config in SECTIONS:
        for name, known in keys_of(config).items():
            assert f"| `{name}` | " in DOCS and known.limits.doc.replace("None", "null") in DOCS, f"{section}.{name}"
    for alias, path in ALIASES.items():
        assert f"| `{alias}`, `{alias.upper()}` | `{path}` |" in DOCS
    for name in PRESETS:
        assert f"| `{name}` | " in DOCS


def test_the_documentations_example_loads():
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert RunConfig.parse(text).model_type == "transformer"
    SCHEMA.validate(plain(text))


def test_links_in_the_documentation_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", DOCS):
        assert (ROOT / "docs" / target).exists(), target


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(json.loads((ROOT / "configs" / "schema.json").read_text()))


@pytest.mark.parametrize(
    "text",
    ["lrr: 1", "train: {lrr: 1}", "train: {lr: -1}", "train: {lr: fast}", "train: {total_steps: 1.5}", "DIM: 20",
     "model: {dim: 40}", "model: {dim: 64, n_heads: 2}", "data: {format: xml}", "train: {betas: [0.5]}", "preset: fast",
     "model: {type: gohst}", "train: {compile: yes}", "seed: 1", "data: {heldout: 0.6}"],
)  # fmt: skip
def test_the_schema_finds_what_loading_finds(text):
    assert not SCHEMA.is_valid(plain(text))
    with pytest.raises(ValueError):
        RunConfig.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "model:\ntrain:\n", "paths: a.txt", "data: {paths: [a, b]}", "train: {min_lr: null}", "type: transformer",
     "model: {type: ghost, DIM: 64, MAX_DEPTH: 2}", "train: {seq_len: 3}"],
)  # fmt: skip
def test_the_schema_allows_what_loads(text):
    RunConfig.parse(text)
    SCHEMA.validate(plain(text) or {})

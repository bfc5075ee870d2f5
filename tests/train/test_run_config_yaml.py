"""Reading run files: YAML 1.2, lines in messages, unknown and doubled keys, and the names that are suggested."""

from __future__ import annotations

import builtins

import pytest

from ghost_native.train.run_config import ConfigError, RunConfig

UNKNOWN = "unknown key, given"
TOP = "model, data, train, preset, and the keys of these sections"


@pytest.mark.parametrize(
    ("text", "lr"),
    [
        ("train:\n  lr: 1e-5\n", 1e-5),
        ("train:\n  lr: 3e-4  # comment\n", 3e-4),
        ("train:\n  lr: '1e-5'\n", 1e-5),
        ('{"train": {"lr": 1E-5}}', 1e-5),
        ("train: {lr: 1}", 1.0),
        ("\ufefftrain:\r\n  lr: .5\r\n", 0.5),
        ("--- \ntrain: &a\n  lr: 1_0.5\n", 10.5),
        ("train:\n  min_lr: &x 1e-3\n  lr: *x\n", 1e-3),
    ],
)
def test_numbers(text, lr):
    assert RunConfig.parse(text).train.lr == lr


def test_words_that_older_yaml_takes_for_booleans_are_strings():
    assert RunConfig.parse("train: {save_dir: no}").train.save_dir == "no"
    assert RunConfig.parse("data: {split: 2024-01-01}").data.split == "2024-01-01"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Lines
        ("train:\n\n  # rate\n  lr: -1\n", "run.yaml:4: train.lr is out of range, given -1, allowed: more than 0."),
        ("train:\n  betas:\n    - 2\n    - 3\n", "run.yaml:2: train.betas is out of range, given [2, 3], allowed: 2 v"),
        ("train:\n  lr: fast", "run.yaml:2: train.lr has the wrong type, given 'fast', allowed: a number."),
        ("train:\n  lr: {a: 1}", "run.yaml:2: train.lr has the wrong type, given {'a': 1}, allowed: a number."),
        ("train:\n  compile: yes", "run.yaml:2: train.compile has the wrong type, given 'yes', allowed: true or false. "
         "Did you mean true?"),
        ("preset: phone\nmodel: {dim: 72}", "run.yaml:2: model.dim is out of range, given 72, allowed: a multiple of "),
        ("preset: phone\nlayers: 1\nmin_depth: 2", "run.yaml:3: model.min_depth is out of range, given 2, allowed: at"),
        # Names
        ("train:\n  warmup: 1", f"run.yaml:2: {UNKNOWN} 'train.warmup', allowed: the keys of train. Did you mean "
         "'train.warmup_steps'?"),
        ("model:\n  lr: 1", f"run.yaml:2: {UNKNOWN} 'model.lr', allowed: the keys of model. Did you mean 'train.lr'?"),
        ("train:\n  batchsize: 1", f"run.yaml:2: {UNKNOWN} 'train.batchsize', allowed: the keys of train. Did you mean "
         "'train.batch_size'?"),
        ("model:\n  steps: 1", f"run.yaml:2: {UNKNOWN} 'model.steps', allowed: the keys of model. Did you mean "
         "'train.total_steps'?"),
        ("data:\n  xyzzy: 1", f"run.yaml:2: {UNKNOWN} 'data.xyzzy', allowed: answer_field, cache_dir, "),
        ("dim: 64\nmodel:\n  n_heads: 1", f"run.yaml:1: {UNKNOWN} 'model.dim', allowed: the keys of model. It is a key "
         "of model.type: ghost."),
        ("model:\n  type: ghost\n  n_heads: 1", f"run.yaml:3: {UNKNOWN} 'model.n_heads', allowed: the keys of model. "
         "It is a key of model.type: transformer."),
        ("learning_rat: 1", f"run.yaml:1: {UNKNOWN} 'learning_rat', allowed: {TOP}. Did you mean 'learning_rate'?"),
        ("trian:\n  lr: 1", f"run.yaml:1: {UNKNOWN} 'trian', allowed: {TOP}. Did you mean 'train'?"),
        ("1: 2", f"run.yaml:1: {UNKNOWN} '1', allowed: {TOP}."),
        ("Dim: 64", f"run.yaml:1: {UNKNOWN} 'Dim', allowed: {TOP}. Did you mean 'dim'?"),
        ("<<: {lr: 1}", f"run.yaml:1: {UNKNOWN} '<<', allowed: {TOP}."),
        ("seed: 1", "run.yaml:1: seed is ambiguous, given no section, allowed: data.seed or train.seed."),
        # Twice
        ("train:\n  lr: 1\n  lr: 2", "run.yaml:3: a key twice, given 'train.lr' again after line 2, allowed: every ke"),
        ("lr: 1\n\nlr: 2", "run.yaml:3: a key twice, given 'lr' again after line 1, allowed: every key once."),
        ("dim: 64\nDIM: 32", "run.yaml:2: model.dim is given twice, given dim = 64 and DIM = 32, allowed: one of them"),
        ("lr: 1\ntrain:\n  learning_rate: 2", "run.yaml:3: train.lr is given twice, given lr = 1 and "
         "train.learning_rate = 2, allowed: one of them."),
        # Choices
        ("train: {optimizer: moun}", "run.yaml:1: train.optimizer is out of range, given 'moun', allowed: 'muon' or "
         "'adamw'. Did you mean 'muon'?"),
        ("preset: quicktest", "run.yaml:1: preset is unknown, given 'quicktest', allowed: quick_test, production, "),
        ("preset: [1]", "run.yaml:1: preset is unknown, given [1], allowed: quick_test, production, "),
        ("model:\n  type: gohst", "run.yaml:2: model.type is out of range, given 'gohst', allowed: 'ghost' or "
         "'transformer'. Did you mean 'ghost'?"),
        ("preset: large\nmodel:\n  type: ghost", "run.yaml:3: model.type does not fit, given 'ghost', allowed: "
         "'transformer' with preset large."),
        ("preset: phone\nn_heads: 4", f"run.yaml:2: {UNKNOWN} 'model.n_heads', allowed: the keys of model. It is a key "
         "of model.type: transformer."),
        # YAML
        ("lr: None", "run.yaml:1: not YAML but Python, given None, allowed: null, or the word in quotes."),
        ("train: 3", "run.yaml:1: train has the wrong type, given 3, allowed: keys and values."),
        ("- 1", "run.yaml:1: no sections, given [1], allowed: model, data and train."),
        ("steps", "run.yaml:1: no sections, given 'steps', allowed: model, data and train."),
        ("train:\n\tlr: 1", "run.yaml:2: not valid YAML, given found character '\\t' that cannot start any token, all"),
        ("train: [1\nlr: 2", "run.yaml:2: not valid YAML, given "),
        ("lr: \x01", "run.yaml: not valid YAML, given "),
        ("a: 1\n---\nb: 2", "run.yaml:2: not valid YAML, given but found another document"),
        ("a: &x [*x]", "run.yaml:1: too deep, given a.0.0.0.0.0.0.0.0, allowed: sections with keys."),
        ("? [1, 2]\n: 3", "run.yaml:1: a key that is a list or a mapping, given one, allowed: names."),
        ("lr: !!python/object:os.system x", "run.yaml:1: an unknown tag, given tag:yaml.org,2002:python/object:os.sys"),
        ("lr: !!int x", "run.yaml:1: train.lr has the wrong type, given 'x', allowed: a number."),
    ],
)  # fmt: skip
def test_mistakes(text, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(text, name="run.yaml")
    assert str(caught.value).startswith(f"[RunConfig] {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.lr=-1", "--set train.lr=-1: train.lr is out of range, given -1, allowed: more than 0."),
        ("lr", "a change without key or value, given 'lr', allowed: KEY=VALUE, such as train.lr=1e-3."),
        ("=1", "a change without key or value, given '=1', allowed: KEY=VALUE"),
        ("train.lr=[1", "--set train.lr=[1: not valid YAML, given expected ',' or ']'"),
        ("train.learning=1", f"--set train.learning=1: {UNKNOWN} 'train.learning', allowed: the keys of train. Did yo"),
        ("train.lr.x=1", f"--set train.lr.x=1: {UNKNOWN} 'train.lr.x', allowed: "),
        ("trian.lr=1", f"--set trian.lr=1: {UNKNOWN} 'trian', allowed: {TOP}. Did you mean 'train'?"),
        ("preset=x", "--set preset=x: preset is unknown, given 'x', allowed: quick_test, "),
    ],
)
def test_mistakes_in_changes(change, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse("", changes=[change])
    assert str(caught.value).startswith(f"[RunConfig] {message}")


def test_a_preset_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"^\[RunConfig\] preset is unknown, given 'phon', .*Did you mean 'phone'\?$"):
        RunConfig.load(None, preset="phon")


def test_load(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("preset: phone\nlr: 1e-3\n")
    run = RunConfig.load(path, changes=["steps=3"])
    assert (run.model.dim, run.train.lr, run.train.total_steps) == (64, 1e-3, 3)
    path.write_bytes(b"lr: \xff\n")
    with pytest.raises(ConfigError, match=r"run.yaml: not valid YAML, given bytes that are no UTF-8 at 4, allowed"):
        RunConfig.load(path)
    with pytest.raises(FileNotFoundError):
        RunConfig.load(tmp_path / "none.yaml")


def test_a_missing_library_is_named(monkeypatch):
    found = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("ruamel"):
            raise ModuleNotFoundError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"^\[RunConfig\] needs ruamel.yaml: pip install 'ghost-native\[train\]'$"):
        RunConfig.parse("lr: 1")
    assert RunConfig.from_dict({"lr": 1}).train.lr == 1

"""Runs: sections, types of models, presets, aliases, changes, checks across sections, and the way back to YAML."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ghost_native.data.config import HELDOUT, DataConfig
from ghost_native.models.checked import keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.train.run_config import PRESETS, ConfigError, RunConfig, TrainSection
from ghost_native.train.run_config.names import ALIASES, ALL_KEYS
from ghost_native.train.run_config.run import OF_ROUTING

TRANSFORMER = "model: {n_layers: 2, d_model: 64, n_heads: 4, vocab_size: 262, max_seq_len: 2048}\n"


def value(run, path):
    for name in path.split("."):
        run = getattr(run, name)
    return run


def test_an_empty_file_is_a_ghost():
    run = RunConfig.parse("")
    assert run.model == GhostConfig() and run.data.seq_len == 256 and run.train.optimizer == "adamw"
    assert run == RunConfig.parse("# nothing\n") == RunConfig.parse("model:\ndata:\ntrain:\n") == RunConfig.load(None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("model: {dim: 64}", "ghost"),
        ("model: {type: transformer}", "transformer"),
        ("model: {n_layers: 3}", "transformer"),
        ("model: {d_model: 768}", "transformer"),
        ("model: {n_heads: 12}", "transformer"),
        ("vocab_size: 300", "transformer"),
        ("model: {weights: float}", "ghost"),
        ("train: {tokenizer_path: t.model}", "transformer"),
        ("preset: phone", "ghost"),
        ("preset: small", "transformer"),
    ],
)
def test_the_type_of_model(text, kind):
    run = RunConfig.parse(text)
    assert run.model_type == kind
    assert isinstance(run.model, GhostConfig if kind == "ghost" else TransformerConfig)


def test_defaults_of_the_types():
    ghost, transformer = RunConfig.parse("type: ghost"), RunConfig.parse("type: transformer")
    assert transformer.train == TrainSection() and transformer.data == DataConfig()
    assert (ghost.train.lr, transformer.train.lr) == (4e-3, 3e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    run = RunConfig.parse("", preset=name)
    assert run == RunConfig.parse(f"preset: {name}") == RunConfig.parse("", changes=[f"preset={name}"])
    assert run == RunConfig.from_dict({}, preset=name) == RunConfig.from_dict({"preset": name})
    for path, expected in PRESETS[name].items():
        assert path == "model.type" or value(run, path) == expected


def test_precedence():
    text = "preset: production\ntrain: {total_steps: 7}\n"
    assert RunConfig.parse(text).train.total_steps == 7
    assert RunConfig.parse(text).train.micro_batch_size == 16
    assert RunConfig.parse(text, preset="phone").train.micro_batch_size == 4
    assert RunConfig.parse(text, preset="phone", changes=["preset=speed"]).train.micro_batch_size == 4
    assert RunConfig.parse(text, changes=["train.total_steps=8"]).train.total_steps == 8
    assert RunConfig.parse(text, changes=["steps=8", "train.total_steps=9"]).train.total_steps == 9


def test_of_two_keys_that_exclude_each_other_the_higher_layer_decides():
    run = RunConfig.parse("preset: speed\nseconds: 60\n")
    assert (run.train.total_steps, run.train.seconds) == (None, 60.0)
    run = RunConfig.parse("seconds: 60\n", changes=["steps=5"])
    assert (run.train.total_steps, run.train.seconds) == (5, None)
    run = RunConfig.parse("seconds: null\nsteps: 3\n")
    assert (run.train.total_steps, run.train.seconds) == (3, None)
    run = RunConfig.parse("dataset: allenai/c4\nconfig: en\n", changes=["paths=a.txt"])
    assert run.data.dataset is None and run.data.paths == ("a.txt",)
    run = RunConfig.parse("paths: [a, b]\n", changes=["data.dataset=allenai/c4"])
    assert run.data.dataset == "allenai/c4" and run.data.paths == ()
    run = RunConfig.parse("heldout: 0\n", changes=["heldout_paths=a.txt"])
    assert run.data.heldout == HELDOUT and run.data.heldout_paths == ("a.txt",)
    for share in (0.2, 0.0):
        run = RunConfig.parse("heldout_paths: a.txt\n", changes=[f"heldout={share}"])
        assert run.data.heldout == share and run.data.heldout_paths == ()
    run = RunConfig.parse("heldout_paths: a.txt\nheldout: 0.2", changes=["heldout_paths=[]"])
    assert run.data.heldout == 0.2 and run.data.heldout_paths == ()


OF_A_DATASET = "config: en\nsplit: test\nstreaming: false\ncache_dir: c\ntext_field: body\nshuffle_buffer: 7\n"


@pytest.mark.parametrize("change", ["paths=a.txt", "dataset=python"])
def test_what_was_said_of_a_dataset_goes_with_it(change):
    run = RunConfig.parse(f"dataset: allenai/c4\nnum_workers: 3\nprompt_field: q\n{OF_A_DATASET}", changes=[change])
    assert run == RunConfig.parse("num_workers: 3", changes=[change])
    one_file = RunConfig.parse(f"{change.replace('=', ': ')}\nnum_workers: 3\n{OF_A_DATASET}")
    assert (one_file.data.config, one_file.data.text_field, one_file.data.shuffle_buffer) == ("en", "body", 7)
    for changes in ([change, "text_field=t"], ["text_field=t", change]):  # said above the dataset
        run = RunConfig.parse(f"dataset: allenai/c4\n{OF_A_DATASET}", changes=changes)
        assert run.data.text_field == "t" and run.data.split == "train"


def test_what_was_said_of_files_goes_with_them_and_stays_for_others():
    text = "paths: a\nformat: jsonl\ntext_field: body\nshuffle_buffer: 7\n"
    run = RunConfig.parse(text, changes=["dataset=allenai/c4"])
    assert run == RunConfig.parse("shuffle_buffer: 7", changes=["dataset=allenai/c4"])
    run = RunConfig.parse(text, changes=["paths=b"])
    assert run == RunConfig.parse(text.replace("paths: a", "paths: b"))


@pytest.mark.parametrize(
    ("change", "path", "expected"),
    [
        ("train.lr=1e-3", "train.lr", 1e-3),
        ("lr=1e-3", "train.lr", 1e-3),
        ("train.learning_rate=.1", "train.lr", 0.1),
        (" train.lr = 2 ", "train.lr", 2.0),
        ("train.gradient_checkpointing=true", "train.gradient_checkpointing", True),
        ("train.min_lr=null", "train.min_lr", None),
        ("train.min_lr=", "train.min_lr", None),
        ("train.betas=[0.8, 0.9]", "train.betas", (0.8, 0.9)),
        ("data.paths=[a, b=c]", "data.paths", ("a", "b=c")),
        ("data.paths=notes: 2.txt", None, None),
        ("train.save_dir='a: b'", "train.save_dir", "a: b"),
        ("train={lr: 0.5}", "train.lr", 0.5),
        ("DIM=64", "model.dim", 64),
    ],
)
def test_changes(change, path, expected):
    if path is None:
        with pytest.raises(ConfigError, match=f"--set {change}: data.paths has the wrong type"):
            RunConfig.parse("", changes=[change])
    else:
        assert value(RunConfig.parse("", changes=[change]), path) == expected


SHORT = {"dim": 128, "layers": 4, "max_depth": 4, "threshold": 0.25, "batch_size": 8, "seq_len": 64,
         "learning_rate": 1e-3, "steps": 77, "checkpoint_every": 11}  # fmt: skip


def test_short_names():
    assert set(SHORT) == set(ALIASES)
    flat = RunConfig.from_dict(SHORT)
    for name, path in ALIASES.items():
        assert value(flat, path) == SHORT[name]
    assert RunConfig.from_dict({name.upper(): v for name, v in SHORT.items()}) == flat
    nested: dict[str, dict[str, object]] = {"model": {}, "data": {}, "train": {}}
    for name, path in ALIASES.items():
        nested[path.split(".")[0]][name] = SHORT[name]
    assert RunConfig.from_dict(nested) == flat
    nested["train"]["SEQ_LEN"] = nested["data"].pop("seq_len")
    assert RunConfig.from_dict(nested) == flat
    assert RunConfig.parse("", changes=[f"{name}={v}" for name, v in SHORT.items()]) == flat


def test_keys_without_their_section():
    names = [path.split(".")[1] for path in ALL_KEYS]
    for path in ALL_KEYS:
        name = path.split(".")[1]
        known = {**keys_of(GhostConfig), **keys_of(TransformerConfig), **keys_of(DataConfig), **keys_of(TrainSection)}
        if names.count(name) == 1 and name in known:
            default = known[name].default
            RunConfig.from_dict({name: default} if default is not None else {})
    assert [name for name in names if names.count(name) > 1] == ["seed", "seed"]


@pytest.mark.parametrize("text", ["", TRANSFORMER, *(f"preset: {name}" for name in PRESETS)])
def test_round_trips(text):
    run = RunConfig.parse(text)
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert RunConfig.parse(run.to_yaml()) == run


def test_round_trip_of_unusual_values():
    run = RunConfig.from_dict({
        "train": {"lr": 1e-300, "min_lr": 0, "sample_interval": 3, "save_dir": "no", "log_path": "1e5", "seconds": 1e9,
                  "sample_prompts": ['quo"te: #', "\n\0\x7f\x85é\u2028\ufeff😀", "null", ""], "betas": [0, 0.5]},
        "data": {"paths": ["- a", "C:\\x", "~/b"], "split": "train[:10%]"},
    })  # fmt: skip
    assert RunConfig.parse(run.to_yaml()) == run
    assert run.train.total_steps is None and run.to_dict()["train"]["seconds"] == 1e9


@pytest.mark.parametrize("text", ["", "type: transformer"])
def test_printed_configurations_explain_every_key(text):
    lines = RunConfig.parse(text).to_yaml().splitlines()
    assert max(map(len, lines)) <= 120
    for index, line in enumerate(lines):
        name = line.split(":")[0].strip()
        if line.startswith("  ") and not name.startswith("#"):
            assert "  # " in line or lines[index - 1].startswith("  # "), name
    shown = {line.split(":")[0].strip() for line in lines}
    ghost = text == ""
    assert ("fact_mix" in shown) == ghost and "lr" in shown and ("n_heads" in shown) != ghost


def test_numbers_are_printed_for_every_parser():
    printed = RunConfig.parse("lr: 1e-5").to_yaml()
    assert "  lr: 1.0e-05 " in printed  # YAML 1.1 takes 1e-05 for a string


def test_final_lr():
    assert RunConfig.parse("lr: 1e-3").train.final_lr == pytest.approx(1e-4)
    assert RunConfig.parse("{lr: 1e-3, min_lr: 0}").train.final_lr == 0


ACROSS = [
    (TRANSFORMER + "seq_len: 2049", "text:2: data.seq_len is out of range, given 2049, allowed: at most "
     "model.max_seq_len = 2048, where model.type is transformer"),
    ("max_seq_len: 2000", "text:1: data.seq_len is out of range, given 2048 by default, allowed: at most"),
    ("vocab_size: 255", "text:1: model.vocab_size is out of range, given 255, allowed: at least 256, for bytes, where"),
    ("vocab_size: 256\nstage: sft", "text:1: model.vocab_size is out of range, given 256, allowed: at least 262"),
    ("dim: 64\ntokenizer_path: t.model", "text:2: train.tokenizer_path is out of range, given 't.model', allowed: nul"),
    ("stage: sft", "text:1: model.num_specials is out of range, given 0 by default, allowed: at least 6"),
    ("type: transformer\nstage: sft\nformat: text", "text:3: data.format is out of range, given 'text', allowed: 'jso"),
    ("type: transformer\nstage: dpo\nformat: shards\ncheckpoint_path: c", "text:3: data.format is out of range"),
    ("type: transformer\nstage: dpo", "text:2: train.checkpoint_path is out of range, given null by default, allowed: "
     "the model to improve, where stage is dpo"),
    ("num_specials: 6\nstage: sft\nfact_share: 0.1", "text:3: train.fact_share is out of range, given 0.1, allowed: 0"),
    ("num_specials: 6\nstage: sft\nfact_mix: 0.1", "text:3: train.fact_mix is out of range, given 0.1, allowed: 0,"),
    ("dataset: d\npaths: p", "text:2: data.paths is out of range, given ('p',), allowed: an empty list, where there i"),
    ("dataset: d\nformat: text", "text:2: data.format is out of range, given 'text', allowed: 'auto', where there is"),
    ("dataset: python\nheldout: 0.1", "text:2: data.heldout is out of range, given 0.1, allowed: 0.05; some of that"),
    ("steps: 5\nseconds: 6", "text:1: train.total_steps is out of range, given 5, allowed: exactly one of total_steps "
     "= 5 and seconds = 6.0, the other null"),
    ("total_steps: null", "text:1: train.total_steps is out of range, given null, allowed: exactly one of"),
    ("steps: 5\nwarmup_steps: 6", "text:2: train.warmup_steps is out of range, given 6, allowed: at most total_steps "),
    ("lr: 1e-3\nmin_lr: 2e-3", "text:2: train.min_lr is out of range, given 0.002, allowed: at most lr = 0.001"),
    ("sample_interval: 5", "text:1: train.sample_prompts is out of range, given () by default, allowed: at least one"),
    ("model: {n_heads: 7}", "text:1: model.n_heads is out of range, given 7, allowed: a divisor of d_model = 768"),
    ("d_model: 30\nn_heads: 10", "text:2: model.n_heads is out of range, given 10, allowed: a number of heads of even"),
    ("d_model: 36\nweights: codebook", "text:1: model.d_model is out of range, given 36, allowed: a multiple of 16, w"),
    ("head_dim: 48", "text:1: model.head_dim is out of range, given 48, allowed: a divisor of dim = 256"),
    ("dim: 80", "text:1: model.head_dim is out of range, given 64 by default, allowed: a divisor of dim = 80"),
    ("dstate: 257", "text:1: model.dstate is out of range, given 257, allowed: at most 256"),
    ("layers: 2\nMAX_DEPTH: 3", "text:2: model.max_depth is out of range, given 3, allowed: 1 to num_layers = 2"),
    ("max_depth: 2\nmin_depth: 3", "text:2: model.min_depth is out of range, given 3, allowed: at most max_depth = 2"),
    ("type: transformer\nreset_every: 2", "text:2: train.reset_every has no effect, given 2, allowed: 16, its default, "
     "with model.type = transformer"),
    ("type: ghost\ncompile: true", "text:2: train.compile has no effect, given true, allowed: false, its default, with "
     "model.type = ghost"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ACROSS)
def test_what_does_not_fit_together(text, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(text)
    assert str(caught.value).startswith(f"[RunConfig] {message}")


def test_every_rule_is_tested():
    rules = [("", RunConfig), ("model.", GhostConfig), ("model.", TransformerConfig), ("data.", DataConfig),
             ("train.", TrainSection)]  # fmt: skip
    for prefix, config in rules:
        for rule in config.RULES:
            allowed = rule.allowed.split("{")[0].replace("None", "null")
            messages = [message for _, message in ACROSS if f" {prefix}{rule.key} is" in message]
            given = [message.partition("allowed: ")[2] for message in messages]
            assert any(text and (allowed.startswith(text) or text.startswith(allowed)) for text in given), rule.key


def test_keys_of_routing_say_so_and_are_remarked_on_without_it():
    text = "type: ghost\nthreshold: 0.3\nMAX_DEPTH: 4\nmin_depth: 2\ntarget_depth: 0.4\ndepth_weight: 5.0\n"
    assert RunConfig.parse(text).remarks() == [f"{name} has no effect while model.routing is false"
                                               for name in OF_ROUTING]  # fmt: skip
    assert RunConfig.parse(text + "routing: true").remarks() == []
    assert RunConfig.parse("type: ghost\nthreshold: 0.5").remarks() == RunConfig.parse(TRANSFORMER).remarks() == []
    said = {f"{section}.{name}" for section, config in (("model", GhostConfig), ("train", TrainSection))
            for name, known in keys_of(config).items() if known.limits.doc.startswith("with routing: ")}  # fmt: skip
    assert said == set(OF_ROUTING)


def test_checks_also_hold_in_python():
    with pytest.raises(ConfigError, match=r"^\[RunConfig\] data.seq_len is out of range, given 2048, allowed: at most"):
        RunConfig(TransformerConfig(max_seq_len=64), DataConfig(), TrainSection())
    run = RunConfig.parse(TRANSFORMER)
    with pytest.raises(ConfigError, match=r"^\[RunConfig\] train.fact_mix has no effect, given 0.5, allowed: 0.0, its"):
        dataclasses.replace(run, train=dataclasses.replace(run.train, fact_mix=0.5))
    with pytest.raises(ConfigError, match=r"^\[TrainSection\] warmup_steps is out of range, given 9, allowed: at most"):
        TrainSection(total_steps=5, warmup_steps=9)
    with pytest.raises(ConfigError, match=r"^\[RunConfig\] train.lr is out of range, given -1, allowed: more than 0"):
        RunConfig.from_dict({"train": {"lr": -1}})

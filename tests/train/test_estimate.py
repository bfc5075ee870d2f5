"""Estimates against what is measured."""

from __future__ import annotations

import dataclasses
import gc

import mlx.core as mx
import pytest

from ghost_native.data.batches import ByteBatcher
from ghost_native.data.corpora import Document
from ghost_native.models import Ghost, Transformer, load_model
from ghost_native.models.config import GhostConfig
from ghost_native.train import Trainer
from ghost_native.train.estimate import estimate
from ghost_native.train.run_config import RunConfig

TEXT = [Document("x", bytes(range(256)) * 400)]
GHOST = {"type": "ghost", "dim": 128, "num_layers": 4}
TRANSFORMER = {"type": "transformer", "vocab_size": 256, "n_layers": 4, "d_model": 128, "n_heads": 4, "dropout": 0.0}


def made(model, seq_len=128, **train) -> RunConfig:
    values = {"micro_batch_size": 8, "optimizer": "adamw", "total_steps": 3, "precision": "float32", **train}
    return RunConfig.from_dict({"model": model, "data": {"seq_len": seq_len}, "train": values})


def measured_peak(config: RunConfig) -> int:
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    model = Ghost(config.model) if isinstance(config.model, GhostConfig) else Transformer(config.model)
    train = config.train
    rows = train.micro_batch_size * train.grad_accum_steps
    teacher = load_model(train.teacher_path) if train.teacher_path else None
    plain = ByteBatcher(TEXT, train.fact_text, config.data.seq_len, run=1) if train.fact_share else None
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    for _ in Trainer(model, ByteBatcher(TEXT, rows, config.data.seq_len), train, teacher=teacher, plain=plain).run():
        pass
    return mx.get_peak_memory() - before


@pytest.mark.parametrize(
    "config",
    [
        made(GHOST),
        made({**GHOST, "dim": 256, "num_layers": 3}, seq_len=64),
        made(GHOST, gradient_checkpointing=True),
        made(GHOST, grad_accum_steps=4, micro_batch_size=2),
        made(GHOST, precision="float16"),
        made(GHOST, ema_decay=0.9, micro_batch_size=2),
        made(TRANSFORMER),
        made({**TRANSFORMER, "d_model": 256, "n_heads": 8, "vocab_size": 2000}, seq_len=64),
        made(TRANSFORMER, gradient_checkpointing=True),
        made({**TRANSFORMER, "ffn_activation": "gelu"}),
    ],
    ids=lambda config: "",
)
def test_memory_is_within_a_fifth_of_the_measured_peak(config):
    found = estimate(config, peak_flops=1e12)
    assert found.peak_bytes == pytest.approx(measured_peak(config), rel=0.2)


@pytest.mark.parametrize(
    "config",
    [
        made(GHOST, fact_share=0.9),
        made({**GHOST, "dim": 64, "num_layers": 2}, micro_batch_size=1, fact_share=0.9, num_facts=400),
        made({**GHOST, "dim": 256, "num_layers": 3}, seq_len=64, micro_batch_size=4, fact_share=0.9),
    ],
    ids=["as usual", "many facts", "wide"],
)
def test_batches_of_facts_count(config):
    found = estimate(config, peak_flops=1e12)
    assert found.peak_bytes == pytest.approx(measured_peak(config), rel=0.2)
    without = estimate(dataclasses.replace(config, train=dataclasses.replace(config.train, fact_share=0.0)),
                       peak_flops=1e12)  # fmt: skip
    assert found.peak_bytes > without.peak_bytes
    tokens = (10 + 4) * config.data.seq_len
    each = tokens / without.tokens_per_step * without.seconds_per_step
    assert found.seconds == pytest.approx(without.seconds + 0.9 * 3 * each)


SMALL, WIDE = {**GHOST, "dim": 64, "num_layers": 2}, {**GHOST, "dim": 256}
SMALL_T, WIDE_T = {**TRANSFORMER, "d_model": 64, "n_layers": 2}, {**TRANSFORMER, "d_model": 256}


@pytest.mark.parametrize(
    ("model", "teacher", "accumulated"),
    [(SMALL, SMALL, 1), (SMALL, WIDE, 2), (WIDE, SMALL, 1), (SMALL_T, WIDE_T, 1), (SMALL_T, WIDE, 1)],
    ids=["alike", "a wide teacher", "a small teacher", "transformers", "a Ghost for a transformer"],
)
def test_a_teacher_is_as_large_as_it_is(tmp_path, model, teacher, accumulated):
    of_teacher = made(teacher).model
    path = tmp_path / "teacher.safetensors"
    large = Ghost(of_teacher) if isinstance(of_teacher, GhostConfig) else Transformer(of_teacher)
    large.save(path)
    config = made(model, teacher_path=str(path), grad_accum_steps=accumulated)
    found, alone = (estimate(c, peak_flops=1e12) for c in (config, made(model, grad_accum_steps=accumulated)))
    assert found.memory["teacher"] > large.nbytes()
    assert found.flops_per_token > alone.flops_per_token and found.seconds > alone.seconds
    assert found.peak_bytes == pytest.approx(measured_peak(config), rel=0.2)


def test_a_teacher_carries_no_more_than_its_context(tmp_path):
    path = tmp_path / "teacher.safetensors"
    teacher = Transformer(made(TRANSFORMER).model)
    found = []
    for teacher.context in (32, 64):
        teacher.save(path)
        found.append(estimate(made(GHOST, teacher_path=str(path)), peak_flops=1e12).memory["teacher"])
    assert found[1] - found[0] == 4 * 8 * 32 * 2 * 4 * 128, "keys and values of 32 tokens in 8 streams and 4 layers"


def test_a_teacher_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        estimate(made(GHOST, teacher_path="nowhere"), peak_flops=1e12)


def test_parameters_are_the_models():
    config = made(GHOST)
    model, found = Ghost(config.model), estimate(config, peak_flops=1e12)
    assert found.parameters == model.count_params()
    assert found.memory["weights"] == model.nbytes() == 4 * (model.count_params() + model.count_codebook_params())


def test_arithmetic_and_time():
    found = estimate(made(TRANSFORMER), peak_flops=1e12)
    matrices = sum(w.size for name, w in Transformer(made(TRANSFORMER).model).weights().items() if w.ndim == 2)
    assert found.flops_per_token == 6 * matrices + 12 * 4 * 128 * 64
    assert found.tokens_per_step == 8 * 128
    assert found.seconds == pytest.approx(3 * found.seconds_per_step)
    assert estimate(made(TRANSFORMER), peak_flops=2e12).seconds == pytest.approx(found.seconds / 2)
    assert estimate(made(TRANSFORMER, grad_accum_steps=2), peak_flops=1e12).seconds_per_step == pytest.approx(
        2 * found.seconds_per_step
    )


def test_what_takes_more_is_said_to():
    base = estimate(made(GHOST), peak_flops=1e12).memory
    assert estimate(made(GHOST, ema_decay=0.9), peak_flops=1e12).memory["average"] == base["weights"]
    assert estimate(made(GHOST, optimizer="muon"), peak_flops=1e12).memory["optimizer"] < base["optimizer"]
    dpo = {**GHOST, "num_specials": 6}
    found = estimate(made(dpo, stage="dpo", checkpoint_path="x"), peak_flops=1e12)
    assert found.memory["reference"] == found.memory["weights"]
    assert found.flops_per_token == pytest.approx(4 / 3 * estimate(made(dpo), peak_flops=1e12).flops_per_token)

"""The training loop: it learns, says what it does, and goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import gc
import math
import time

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.data.batches import ByteBatcher
from ghost_native.train import Trainer, evaluate
from ghost_native.train.loss_scale import LossScale
from ghost_native.train.objective import divergences
from ghost_native.train.schedule import learning_rate
from tests.tolerances import nrmse
from tests.train.runs import TEXT, same_weights, section, tiny, train, trainer, weights


def test_learns():
    model = tiny()
    before = evaluate(model, TEXT).bpb
    reports = train(model, total_steps=60)
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[0].bpt > 6 and reports[-1].bpt < 3.5
    assert reports[-1].tokens == 60 * 4 * 32
    assert all(math.isfinite(r.grad_norm) and r.grad_norm > 0 for r in reports)
    assert evaluate(model, TEXT).bpb < before - 3


def test_learns_with_muon():
    assert train(tiny(), total_steps=40, optimizer="muon", lr=2e-2)[-1].bpt < 4.5


def test_same_seed_same_weights():
    a, b = tiny(), tiny()
    train(a, total_steps=6, fact_share=0.3, fact_mix=0.3)
    train(b, total_steps=6, fact_share=0.3, fact_mix=0.3)
    assert same_weights(a, b)


def test_time_tied_schedule_ends_on_time():
    begin = time.perf_counter()
    reports = train(tiny(), seconds=2.0, fact_share=0.3)
    assert 1.9 < time.perf_counter() - begin < 6
    phases = [r.phase for r in reports]
    assert phases == sorted(phases) and set(phases) == {"facts", "text"}
    rates = [r.learning_rate for r in reports if r.phase == "text"]
    assert rates[-1] < 0.5 * max(rates)


def test_fact_phase_comes_first_then_a_mix():
    phases = [r.phase for r in train(tiny(), total_steps=40, fact_share=0.2, fact_mix=0.25)]
    assert len(phases) == 48 and phases[:8] == ["facts"] * 8
    assert 2 <= phases[8:].count("facts") <= 20


def test_stopping_early_leaves_a_usable_model():
    model = tiny()
    for report in trainer(model, section(total_steps=50)).run():
        if report.step == 3:
            break
    assert math.isfinite(evaluate(model, TEXT).bpb)


def test_stop_ends_after_the_step_in_hand():
    made = trainer(tiny(), section(total_steps=50))
    seen = [report.step for report in made.run(stop=lambda: made.step >= 3)]
    assert seen == [1, 2, 3] and made.step == 3


# -- resuming ---------------------------------------------------------------------------------------------------------

RESUMED = {
    "text": {},
    "facts": {"fact_share": 0.4, "fact_mix": 0.3},
    "accumulated": {"grad_accum_steps": 2, "micro_batch_size": 2},
    "averaged": {"ema_decay": 0.9},
    "muon": {"optimizer": "muon"},
    "float16": {"precision": "float16", "loss_scale": 2.0**22},
    "short runs": {"reset_every": 3},
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(changes, at):
    config = section(total_steps=10, **changes)
    straight, broken, resumed = tiny(), tiny(), tiny()
    whole = list(trainer(straight, config).run(pause=lambda step: step == 2))
    first = trainer(broken, config)
    for report in first.run(pause=lambda step: step == at):
        if report.step == at:
            break
    assert first.step == at
    second = trainer(resumed, config)
    resumed.update(broken.parameters())
    second.restore(first.state())
    rest = list(second.run())

    def numbers(reports):  # as text, for NaN is not equal to itself
        return [str((r.step, r.phase, r.loss, r.nats, r.grad_norm, r.learning_rate, r.tokens)) for r in reports]

    assert numbers(rest) == numbers(whole[at:])
    assert same_weights(straight, resumed)
    if "ema_decay" in changes:
        average = trainer(straight, config).average
        with second.average.applied(resumed):
            assert not same_weights(straight, resumed)
        assert average is not None and same_weights(straight, resumed)


def test_a_pause_shows_the_model_of_that_step():
    model, other = tiny(), tiny()
    for report in trainer(model, section(total_steps=6)).run(pause=lambda step: step == 3):
        if report.step == 3:
            seen = {name: mx.array(w) for name, w in weights(model).items()}
    train(other, total_steps=6)
    short = tiny()
    for report in trainer(short, section(total_steps=6)).run(pause=lambda step: step == 3):
        if report.step == 3:
            break
    assert all(mx.array_equal(seen[name], w) for name, w in weights(short).items())
    assert same_weights(model, other)  # pausing changes nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": 0.5}, "another configuration: average differs"),
        ({"grad_accum_steps": 2, "micro_batch_size": 2}, "another grad_accum_steps, given 1, allowed: 2"),
        ({"optimizer": "muon"}, "of another model or optimizer"),
        ({"micro_batch_size": 3}, "another batch, seqlen or seed"),
    ],
)
def test_states_of_other_runs_are_refused(changes, message):
    state = trainer(tiny(), section()).state()
    with pytest.raises(ValueError, match=message):
        trainer(tiny(), section(**changes)).restore(state)


# -- accumulation, precision, averages --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 4])
def test_accumulation_equals_the_big_batch(steps):
    big, small = tiny(), tiny()
    a = train(big, micro_batch_size=4, total_steps=3, max_grad_norm=0.5)
    b = train(small, micro_batch_size=4 // steps, grad_accum_steps=steps, total_steps=3, max_grad_norm=0.5)
    for one, other in zip(a, b, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.nats == pytest.approx(other.nats, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


def test_accumulated_gradients_equal_those_of_the_big_batch():
    gradients = []
    for steps in (1, 2, 4):
        made = trainer(tiny(), section(micro_batch_size=4 // steps, grad_accum_steps=steps))
        gradients.append(made._text_step(mx.array(1.0))[2])
    from mlx.utils import tree_flatten

    for other in gradients[1:]:
        for (name, a), (_, b) in zip(tree_flatten(gradients[0]), tree_flatten(other), strict=True):
            assert mx.abs(a).max().item() == 0 or nrmse(np.array(b), np.array(a)) < 1e-4, name


def test_precision_is_that_of_training_alone():
    model = tiny(dim=64)
    seen = set()
    for _ in trainer(model, section(precision="bfloat16")).run():
        seen |= {layer.activation for layer in model.product_layers()}
    assert seen == {"bfloat16"}
    assert {layer.activation for layer in model.product_layers()} == {"float32"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_learns_in_any_precision(precision):
    model = tiny(dim=64)
    assert train(model, total_steps=40, precision=precision)[-1].bpt < 4.5
    assert model.compute_dtype == mx.float32


def test_float16_recovers_from_overflow():
    model, untouched = tiny(), tiny()
    made = trainer(model, section(precision="float16", loss_scale=2.0**60, total_steps=60))
    overflowed = 0
    for report in made.run(pause=lambda step: True):
        if math.isfinite(report.grad_norm):
            break
        overflowed += 1
        assert same_weights(model, untouched)  # a step that overflowed changes nothing
    assert overflowed >= 10 and made.loss_scale.value == 2.0 ** (60 - overflowed)
    assert not same_weights(model, untouched)
    assert list(made.run())[-1].bpt < 7


@pytest.mark.parametrize("changes", [{"num_layers": 12}, {"num_layers": 12, "routing": True}], ids=["dense", "routed"])
def test_gradient_checkpointing_takes_the_same_steps_in_less_memory(changes):
    plain, recomputing, peaks = tiny(**changes), tiny(**changes), []
    for model, on in ((plain, False), (recomputing, True)):
        mx.clear_cache()
        mx.reset_peak_memory()
        reports = train(model, total_steps=3, gradient_checkpointing=on, micro_batch_size=16)
        peaks.append((mx.get_peak_memory(), [report.loss for report in reports]))
    assert peaks[1][0] < 0.8 * peaks[0][0]
    assert peaks[1][1] == pytest.approx(peaks[0][1], rel=1e-5)
    assert not recomputing.recomputes


def test_the_loss_scale_grows_again():
    scale = LossScale(8.0)
    scale.after(False)
    assert scale.value == 4.0 and scale.overflows == 1
    for _ in range(2000):
        scale.after(True)
    assert scale.value == 8.0
    for _ in range(3):
        scale.after(False)
    assert scale.value == 1.0
    with pytest.raises(FloatingPointError, match="not finite whatever the loss scale"):
        scale.after(False)


def test_gradients_that_are_never_finite_end_the_run():
    model = tiny()
    model.head.weight = model.head.weight * math.nan
    with pytest.raises(FloatingPointError, match="gradients are not finite whatever the loss scale"):
        train(model, precision="float16", loss_scale=2.0)


def test_the_average_follows_the_weights():
    model = tiny()
    made = trainer(model, section(ema_decay=0.5, total_steps=3))
    wanted = {name: np.array(w, np.float64) for name, w in weights(model).items()}
    for _ in made.run(pause=lambda step: True):
        for name, w in weights(model).items():
            wanted[name] = 0.5 * wanted[name] + 0.5 * np.array(w, np.float64)
    own = weights(model)
    with made.average.applied(model):
        for name, w in weights(model).items():
            assert np.allclose(np.array(w), wanted[name], atol=1e-6), name
    assert all(mx.array_equal(own[name], w) for name, w in weights(model).items())


def test_memory_stays_flat_with_an_average_and_a_teacher():
    model, held = tiny(), []
    made = trainer(model, section(ema_decay=0.9, total_steps=30, reset_every=50), teacher=tiny(weights="float"))
    for report in made.run(pause=lambda step: step in (10, 30)):
        if report.step in (10, 30):
            gc.collect()
            held.append(mx.get_active_memory())
    assert held[1] < 1.1 * held[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_not_finite_ends_the_run(precision):
    model = tiny()
    model.head.weight = model.head.weight * math.nan
    with pytest.raises(FloatingPointError, match="not finite at step 1: loss nan"):
        train(model, precision=precision)


# -- routing, teachers, errors ----------------------------------------------------------------------------------------


def test_routed_training_moves_depth_to_its_target():
    model = tiny(num_layers=4, routing=True, threshold=0.0)
    train(model, total_steps=60, target_depth=0.5, depth_weight=20.0, lr=1e-2)
    result = evaluate(model, TEXT)
    assert 0 < result.skipped_share < 0.75
    assert result.mean_depth == pytest.approx(4 * (1 - result.skipped_share))


def test_distillation_pulls_towards_the_teacher():
    teacher, student = tiny(weights="float"), tiny()
    train(teacher, total_steps=40)
    tokens = mx.array([list(TEXT[0].data[:64])])
    before = divergences(student(tokens), teacher(tokens)).mean().item()
    for _ in trainer(student, section(total_steps=40, distill_weight=5.0), teacher=teacher).run():
        pass
    assert divergences(student(tokens), teacher(tokens)).mean().item() < 0.5 * before
    assert divergences(teacher(tokens), teacher(tokens)).mean().item() == pytest.approx(0, abs=1e-6)


def test_packed_models_are_not_trained():
    with pytest.raises(ValueError, match=r"\[Trainer\] a packed model cannot be trained"):
        trainer(tiny().pack(), section())


def test_sources_must_fit():
    with pytest.raises(ValueError, match=r"given batches of 4 rows, allowed: .* = 6"):
        Trainer(tiny(), ByteBatcher(TEXT, 4, 32), section(micro_batch_size=2, grad_accum_steps=3))
    with pytest.raises(ValueError, match=r"given runs of 3 windows, allowed: reset_every = 16"):
        Trainer(tiny(), ByteBatcher(TEXT, 4, 32, run=3), section())
    with pytest.raises(ValueError, match="compile is for transformers"):
        trainer(tiny(), section(compile=True))


def test_learning_rate_schedule():
    def at(progress):
        return learning_rate(progress, 1.0, 0.2, 0.1)

    assert at(0) == 0 and at(0.05) == pytest.approx(0.5) and at(0.1) == pytest.approx(1.0)
    assert at(0.55) == pytest.approx(0.6) and at(1.0) == pytest.approx(0.2) and at(2.0) == pytest.approx(0.2)


def test_warmup_and_cosine_by_steps():
    rates = [r.learning_rate for r in train(tiny(), total_steps=20, warmup_steps=4, lr=1.0e-3, min_lr=1.0e-4)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    wanted = [1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * k / 16)) for k in range(16)]
    assert rates[4:] == pytest.approx(wanted)
    timed = [r.learning_rate for r in train(tiny(), seconds=1.0, warmup_steps=4, lr=1.0e-3)]
    assert timed[:3] == pytest.approx([2.5e-4, 5e-4, 7.5e-4], rel=0.2)


# -- every key --------------------------------------------------------------------------------------------------------

CHANGES = {
    "micro_batch_size": 2, "grad_accum_steps": 2, "total_steps": 7, "seconds": 0.5, "lr": 1e-4, "min_lr": 4e-3,
    "warmup_steps": 3, "weight_decay": 0.5, "betas": (0.5, 0.9), "max_grad_norm": 0.01, "codebook_rate": 5.0,
    "reset_every": 1, "cheap_weight": 2.0, "boundary_weight": 2.0, "target_depth": 0.1, "depth_weight": 50.0,
    "fact_share": 0.5, "fact_mix": 0.6, "fact_batch": 3, "fact_text": 1, "num_facts": 3, "fact_weight": 9.0,
    "distill_weight": 9.0, "seed": 5, "optimizer": "muon", "precision": "float16",
}  # fmt: skip
WITH_MUON = {"momentum": 0.5, "adam_lr_multiplier": 3.0}


def weights_after(**changes) -> str:
    model, teacher = tiny(routing=True), tiny(weights="float")
    for _ in trainer(model, section(**{"fact_share": 0.25, **changes}), teacher=teacher).run():
        pass
    return str([v.sum().item() for v in weights(model).values()])


def test_every_key_of_the_loop_changes_training():
    base = weights_after()
    assert weights_after() == base
    for key, value in CHANGES.items():
        assert weights_after(**{key: value}) != base, key
    muon = weights_after(optimizer="muon")
    for key, value in WITH_MUON.items():
        assert weights_after(optimizer="muon", **{key: value}) != muon, key


def test_keys_of_the_loop_are_keys_of_the_section():
    known = {field.name for field in dataclasses.fields(section())}
    assert CHANGES.keys() | WITH_MUON.keys() <= known

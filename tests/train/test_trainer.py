from __future__ import annotations

import dataclasses
import math
import time

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from ghost_native.data.batches import ByteBatcher
from ghost_native.data.corpora import Document
from ghost_native.models import Ghost, GhostConfig
from ghost_native.train import PRESETS, TrainConfig, Trainer, evaluate
from ghost_native.train.objective import divergence
from ghost_native.train.schedule import learning_rate

TEXT = [Document("fox", b"the quick brown fox jumps over the lazy dog. " * 60), Document("abc", b"abcdefgh" * 150)]


def tiny(**changes) -> Ghost:
    return Ghost(GhostConfig(**{"dim": 32, "num_layers": 2, "stride": 16, **changes}), seed=0)


def train(model: Ghost, **changes):
    values = {"batch": 4, "seqlen": 32, "learning_rate": 5e-3, "seed": 1, **changes}
    config = TrainConfig(**values)
    return list(Trainer(model, ByteBatcher(TEXT, config.batch, config.seqlen, seed=1), config).run())


def test_learns():
    model = tiny()
    before = evaluate(model, TEXT).bpb
    reports = train(model, steps=60)
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[0].bpb > 6 and reports[-1].bpb < 3.5
    assert evaluate(model, TEXT).bpb < before - 3


def test_same_seed_same_weights():
    a, b = tiny(), tiny()
    train(a, steps=6, fact_share=0.3, fact_mix=0.3)
    train(b, steps=6, fact_share=0.3, fact_mix=0.3)
    for (name, x), (_, y) in zip(tree_flatten(a.parameters()), tree_flatten(b.parameters()), strict=True):
        assert mx.array_equal(x, y), name


def test_time_tied_schedule_ends_on_time():
    begin = time.perf_counter()
    reports = train(tiny(), seconds=2.0, fact_share=0.3)
    assert 1.9 < time.perf_counter() - begin < 6
    phases = [r.phase for r in reports]
    assert phases == sorted(phases) and set(phases) == {"facts", "text"}
    assert reports[-1].progress == 1.0 and reports[-1].remaining_s == 0.0
    rates = [r.learning_rate for r in reports if r.phase == "text"]
    assert rates[-1] < 0.5 * max(rates)


def test_fact_phase_comes_first_then_a_mix():
    phases = [r.phase for r in train(tiny(), steps=40, fact_share=0.2, fact_mix=0.25)]
    assert phases[:8] == ["facts"] * 8
    assert 2 <= phases[8:].count("facts") <= 20


def test_stopping_early_leaves_a_usable_model():
    model = tiny()
    for report in Trainer(model, ByteBatcher(TEXT, 2, 16), TrainConfig(batch=2, seqlen=16, steps=50)).run():
        if report.step == 3:
            break
    assert math.isfinite(evaluate(model, TEXT).bpb)


def test_precision_is_that_of_training_alone():
    model = tiny(dim=64)
    seen = set()
    config = TrainConfig(batch=2, seqlen=16, steps=4, precision="bfloat16")
    for _ in Trainer(model, ByteBatcher(TEXT, 2, 16), config).run():
        seen |= {layer.activation for _, layer in model.codebook_layers()}
    assert seen == {"bfloat16"}
    assert {layer.activation for _, layer in model.codebook_layers()} == {"float32"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learns_in_either_precision(precision):
    model = tiny(dim=64)
    assert train(model, steps=40, precision=precision)[-1].bpb < 4.5


def test_routed_training_moves_depth_to_its_target():
    model = tiny(num_layers=4, routing=True, threshold=0.0)
    train(model, steps=60, target_depth=0.5, depth_weight=20.0, learning_rate=1e-2)
    result = evaluate(model, TEXT)
    assert 0 < result.skipped_share < 0.75
    assert result.mean_depth == pytest.approx(4 * (1 - result.skipped_share))


def test_distillation_pulls_towards_the_teacher():
    teacher, student = tiny(weights="float"), tiny()
    train(teacher, steps=40)
    tokens = mx.array([list(TEXT[0].data[:64])])
    config = TrainConfig(batch=4, seqlen=32, steps=40, learning_rate=5e-3, distill_weight=5.0)
    before = divergence(student(tokens), teacher(tokens)).item()
    for _ in Trainer(student, ByteBatcher(TEXT, 4, 32), config, teacher=teacher).run():
        pass
    assert divergence(student(tokens), teacher(tokens)).item() < 0.5 * before
    assert divergence(teacher(tokens), teacher(tokens)).item() == pytest.approx(0, abs=1e-6)


def test_packed_models_are_not_trained():
    with pytest.raises(ValueError, match=r"\[Trainer\] a packed model cannot be trained"):
        Trainer(tiny().pack(), ByteBatcher(TEXT, 4, 32), TrainConfig(batch=4, seqlen=32, steps=1))


def test_batcher_must_fit():
    with pytest.raises(ValueError, match=r"given batches of 4 x 32, allowed: 16 x 128"):
        Trainer(tiny(), ByteBatcher(TEXT, 4, 32), TrainConfig(steps=1))


def test_runs_must_be_as_long_as_the_state_is_carried():
    batcher = ByteBatcher(TEXT, 4, 32, run=3)
    with pytest.raises(ValueError, match=r"given runs of 3 windows, allowed: reset_every = 16"):
        Trainer(tiny(), batcher, TrainConfig(batch=4, seqlen=32, steps=1))


@pytest.mark.parametrize("chunk", [1, 7, 64, 5000])
def test_evaluation_does_not_depend_on_the_chunk(chunk):
    model = tiny()
    document = [Document("x", TEXT[0].data[:90]), Document("one", b"a"), Document("none", b"")]
    calls = []
    got = evaluate(model, document, chunk=chunk, progress=lambda done, total: calls.append((done, total)))
    tokens = mx.array([list(document[0].data)])
    logits = model(tokens[:, :-1])
    log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    nats = -mx.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).sum().item()
    # The first byte of each document that has one counts 8 bits.
    assert got.bpb == pytest.approx((nats / math.log(2) + 16) / 91, rel=1e-4)
    assert got.num_bytes == 91 and calls[-1] == (90, 91)  # the one-byte document has no chunk
    assert got.mean_depth == 2 and got.skipped_share == 0


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match=r"\[evaluate\] there is nothing to score"):
        evaluate(tiny(), [Document("none", b"")])


def test_learning_rate_schedule():
    def at(p):
        return learning_rate(p, 1.0, warmup=0.1, final_rate=0.2)

    assert at(0) == 0 and at(0.05) == pytest.approx(0.5) and at(0.1) == pytest.approx(1.0)
    assert at(0.55) == pytest.approx(0.6) and at(1.0) == pytest.approx(0.2) and at(2.0) == pytest.approx(0.2)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    assert TrainConfig.preset(name, seconds=5.0).steps is None
    assert TrainConfig.preset(name).steps is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "steps is out of range, given None, allowed: exactly one of steps and seconds"),
        ({"steps": 1, "seconds": 2.0}, "exactly one of steps and seconds"),
        ({"step": 1}, r"unknown key, given 'step', allowed: .*Did you mean 'steps'\?"),
        ({"steps": 1, "batch": 0}, "batch is out of range, given 0, allowed: at least 1"),
        ({"steps": 1, "fact_mix": 1.0}, "fact_mix is out of range, given 1.0, allowed: below 1"),
        ({"steps": 1, "betas": (0.9, 1.0)}, "betas is out of range"),
        ({"steps": 1, "weight_decay": -1.0}, "weight_decay is out of range, given -1.0, allowed: 0 or more"),
        ({"seconds": 0.0}, "seconds is out of range, given 0.0, allowed: more than 0"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset, given 'fast', allowed: speed, production"):
        TrainConfig.preset("fast")


CHANGES = {
    "batch": 2, "seqlen": 16, "steps": 7, "seconds": 0.5, "learning_rate": 1e-4, "final_rate": 0.9, "warmup": 0.5,
    "weight_decay": 0.5, "betas": (0.5, 0.9), "max_grad_norm": 0.01, "codebook_rate": 5.0, "reset_every": 1,
    "cheap_weight": 2.0, "boundary_weight": 2.0, "target_depth": 0.1, "depth_weight": 50.0, "fact_share": 0.5,
    "fact_mix": 0.6, "fact_batch": 3, "fact_text": 1, "num_facts": 3, "fact_weight": 9.0, "distill_weight": 9.0,
    "seed": 5,
}  # fmt: skip


def weights_after(**changes) -> str:
    values = {"batch": 4, "seqlen": 32, "steps": 4, "learning_rate": 5e-3, "fact_share": 0.25, **changes}
    if "seconds" in values:
        values["steps"] = None
    config = TrainConfig(**values)
    model, teacher = tiny(routing=True), tiny(weights="float")
    batcher = ByteBatcher(TEXT, config.batch, config.seqlen, seed=1)
    for _ in Trainer(model, batcher, config, teacher=teacher).run():
        pass
    return str([v.sum().item() for v in model.weights().values()])


def test_every_key_changes_training():
    # Whether precision changes anything is the CPU's affair; it has a test of its own.
    assert set(CHANGES) == {f.name for f in dataclasses.fields(TrainConfig)} - {"precision"}
    base = weights_after()
    assert weights_after() == base
    for key, value in CHANGES.items():
        assert weights_after(**{key: value}) != base, key

"""Losses against values computed by hand."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from ghost_native.data.batch import PreferenceBatch, TokenBatch
from ghost_native.models import Transformer, TransformerConfig
from ghost_native.train.objective import Share, language_objective, log_likelihood, preference_objective
from ghost_native.train.trainer import Trainer
from tests.tolerances import nrmse
from tests.train.runs import section, tiny


def test_dpo_by_hand():
    # Chosen became 1.5 nats likelier than under the reference, rejected 0.5 nats less likely: a margin of 2.
    loss, margin = preference_objective(
        mx.array([-3.5]), mx.array([-4.5]), mx.array([-5.0]), mx.array([-4.0]), beta=0.25
    )
    assert margin.item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.5))), rel=1e-6)


def test_dpo_of_the_reference_itself_is_log_two():
    x, y = mx.array([-3.0, -1.0]), mx.array([-2.0, -9.0])
    loss, _ = preference_objective(x, y, x, y, beta=0.7)
    assert np.allclose(np.array(loss), math.log(2))


def test_the_gradient_of_dpo_is_beta_times_how_wrong_it_is():
    def total(chosen):
        return preference_objective(chosen, mx.array(-2.0), mx.array(-3.0), mx.array(-2.0), beta=0.5)[0]

    slope = mx.grad(total)(mx.array(-1.0))  # margin 0.5 * 2 = 1
    assert slope.item() == pytest.approx(-0.5 / (1 + math.exp(1)), rel=1e-5)


def arrays(seed: int = 0, weight: bool = True) -> dict[str, mx.array]:
    rng = np.random.default_rng(seed)
    made = {name: mx.array(rng.integers(0, 256, (2, 12)).astype(np.int32)) for name in ("tokens", "targets")}
    if weight:
        made["weight"] = mx.array((rng.random((2, 12)) < 0.4).astype(np.float32))
    return made


def test_only_weighted_targets_count():
    model, given = tiny(), arrays()
    config = section(cheap_weight=0.0, boundary_weight=0.0)
    each = 1.0 / given["weight"].sum().item()
    found = language_objective(model, given, None, config, Share(each, 1.0))
    logits = np.array(model(given["tokens"]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = -np.take_along_axis(log_p, np.array(given["targets"])[..., None], -1)[..., 0]
    weight = np.array(given["weight"])
    assert found.total.item() == pytest.approx((picked * weight).sum() / weight.sum(), rel=1e-5)
    assert np.allclose(np.array(log_likelihood(model, given)), -(picked * weight).sum(-1), rtol=1e-5)
    # What has no weight moves nothing.
    other = dict(given, targets=mx.where(given["weight"] > 0, given["targets"], 7))
    assert language_objective(model, other, None, config, Share(each, 1.0)).total.item() == found.total.item()


@pytest.mark.parametrize("routing", [False, True])
def test_what_has_no_weight_moves_nothing_of_ghosts_own(routing):
    """Texts padded to twice their length, whatever stands in the padding, have the loss and gradients of the texts."""
    model = tiny(routing=routing, threshold=0.0)
    teacher = tiny(weights="float")
    config = section(cheap_weight=0.7, boundary_weight=0.9, depth_weight=20.0, target_depth=0.1, distill_weight=0.8)
    bare = arrays(3, weight=False)
    bare["weight"] = mx.ones((2, 12))

    def found(given):
        each = 1.0 / given["weight"].sum().item()

        def loss(model):
            logits = teacher(given["tokens"])
            return language_objective(model, given, None, config, Share(each, 1.0), logits).total

        return nn.value_and_grad(model, lambda: loss(model))()

    wanted, slopes = found(bare)
    unweighted = {name: bare[name] for name in ("tokens", "targets")}
    share = Share(1 / 24, 1.0)
    same = language_objective(model, unweighted, None, config, share, teacher(bare["tokens"])).total
    assert same.item() == pytest.approx(wanted.item(), rel=1e-6)
    for seed in (4, 5):
        padding = arrays(seed)
        padding["weight"] = mx.zeros((2, 12))
        padded = {name: mx.concatenate([bare[name], padding[name]], axis=1) for name in bare}
        total, others = found(padded)
        assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
        for (name, a), (_, b) in zip(tree_flatten(slopes), tree_flatten(others), strict=True):
            if mx.abs(a).max().item():
                assert nrmse(np.array(b), np.array(a)) < 1e-4, name


def test_a_micro_batch_of_padding_alone_moves_nothing():
    model = tiny(routing=True)
    given = arrays(1) | {"weight": mx.zeros((2, 12))}
    total = language_objective(
        model, given, None, section(depth_weight=9.0), Share(0.1, 1.0), model(given["tokens"])
    ).total
    assert total.item() == 0


class Pairs:
    """An endless source of one preference: 'a' repeated is better than 'b' repeated."""

    def __init__(self, batch: int, seqlen: int) -> None:
        self.batch, self.seqlen = batch, seqlen

    def _text(self, letter: bytes) -> TokenBatch:
        row = np.frombuffer(b"say: " + letter * (self.seqlen - 4), np.uint8).astype(np.int32)
        rows = np.tile(row, (self.batch, 1))
        weight = np.zeros((self.batch, self.seqlen), np.float32)
        weight[:, 4:] = 1
        return TokenBatch(rows[:, :-1], rows[:, 1:], weight)

    def __next__(self) -> PreferenceBatch:
        return PreferenceBatch(self._text(b"a"), self._text(b"b"))

    def state(self):
        return {}

    def restore(self, state) -> None:
        pass


def test_dpo_training_prefers_what_was_chosen():
    model = tiny()
    made = Trainer(
        model, Pairs(4, 16), section(stage="dpo", checkpoint_path="a", total_steps=12, lr=1e-3, dpo_beta=0.5)
    )
    reports = list(made.run())
    assert reports[0].loss == pytest.approx(math.log(2), rel=1e-4)
    assert reports[-1].loss < 0.3
    pair = next(Pairs(1, 16))
    likelihoods = [
        log_likelihood(model, {n: mx.array(getattr(x, n)) for n in ("tokens", "targets", "weight")}).item()
        for x in (pair.chosen, pair.rejected)
    ]
    assert likelihoods[0] > likelihoods[1] + 1


def test_accumulated_preferences_equal_the_big_batch():
    losses = []
    for steps in (1, 2):
        config = section(
            stage="dpo", checkpoint_path="a", micro_batch_size=4 // steps, grad_accum_steps=steps, total_steps=3
        )
        losses.append([report.loss for report in Trainer(tiny(), Pairs(4, 16), config).run()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_compiled_step_of_preferences_is_the_plain_one():
    """Where MLX can compile: on Linux it needs a C++ compiler."""
    losses, compiled = [], []
    for compile_it in (False, True):
        config = section(stage="dpo", checkpoint_path="a", compile=compile_it, grad_accum_steps=2, micro_batch_size=2)
        sizes = {"vocab_size": 256, "n_layers": 1, "d_model": 32, "n_heads": 2, "dropout": 0.1, "max_seq_len": 16}
        made = Trainer(Transformer(TransformerConfig(**sizes), seed=2), Pairs(4, 16), config)
        losses.append([report.loss for report in made.run()])
        compiled.append(type(made._preference).__name__)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0][-1] < losses[0][0]
    assert compiled[0] != compiled[1]

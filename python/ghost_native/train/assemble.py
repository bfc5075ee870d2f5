"""From a configuration to everything a run is made of: model, tokenizer, data, scores and samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ghost_native.data.batch import PreferenceBatch, TokenBatch
from ghost_native.data.chat import ChatTemplate, Message
from ghost_native.data.config import PYTHON
from ghost_native.data.corpora import Document
from ghost_native.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from ghost_native.generate.stream import prompt_tokens
from ghost_native.models.atomic import atomic_file
from ghost_native.models.config import GhostConfig
from ghost_native.models.export import TOKENIZER, load_model
from ghost_native.models.ghost import Ghost
from ghost_native.models.transformer import Transformer
from ghost_native.train.assemble_data import Data, build_data
from ghost_native.train.checkpoint import CheckpointFolder
from ghost_native.train.continuation import continuation
from ghost_native.train.evaluate import evaluate
from ghost_native.train.objective import batch_arrays, log_likelihood, preference_objective
from ghost_native.train.ranks import ALONE, Ranks
from ghost_native.train.run import Run, Watcher
from ghost_native.train.run_config import RunConfig
from ghost_native.train.saved import keep_tokenizer, model_file, tokenizer_file
from ghost_native.train.trainer import Trainer

__all__ = ["PYTHON", "Data", "build_data", "build_model", "build_run", "build_tokenizer", "check_documents"]

CONFIG_FILE = "config.yaml"
CHECK_BYTES = 24_000  # of held-out documents that are scored on the way, where nothing else is said


def build_model(config: RunConfig) -> Ghost | Transformer:
    """A fresh model, or the one at ``train.checkpoint_path``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is packed, another model than the configuration says, or would be replaced by the run itself.
    """
    path = _not_replaced(config, "checkpoint_path")
    if path is None:
        if isinstance(config.model, GhostConfig):
            return Ghost(config.model, seed=config.train.seed)
        fresh = Transformer(config.model, seed=config.train.seed)
        fresh.context = config.data.seq_len
        return fresh
    model = load_model(model_file(path))
    if model.config != config.model:
        raise ValueError(
            f"[build_model] {path} is another model than the configuration says: {_difference(model, config)}"
        )
    if model.is_packed:
        raise ValueError(f"[build_model] {path} is packed to 2 bits, which cannot be trained; name one saved unpacked.")
    if isinstance(model, Transformer):
        model.context = max(model.context, config.data.seq_len)  # it has learned longer ones before
    return model


def _difference(model: Ghost | Transformer, config: RunConfig) -> str:
    given, wanted = model.config.to_dict(), config.model.to_dict()
    if given.keys() != wanted.keys():
        return f"given a {type(model).__name__}, allowed: a {config.model_type}."
    name = next(name for name in given if given[name] != wanted[name])
    return f"given model.{name} = {given[name]!r}, allowed: {wanted[name]!r}."


def _not_replaced(config: RunConfig, key: str) -> str | None:
    """The path at a key of ``train``: a model that the run needs whenever it is resumed, so none of its own folder."""
    path: str | None = getattr(config.train, key)
    folder = CheckpointFolder(config.train.save_dir)
    if path is not None and (folder.rewrites(path) or folder.rewrites(model_file(path))):
        raise ValueError(
            f"[build_run] train.{key} is in the run's own folder, where it would be replaced, given {path} and "
            f"train.save_dir = {config.train.save_dir}, allowed: a copy elsewhere, or another train.save_dir."
        )
    return path


def build_teacher(config: RunConfig) -> Ghost | Transformer | None:
    """The model at ``train.teacher_path``, None where none is named.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it predicts other tokens, or would be replaced by the run itself.
    """
    path = _not_replaced(config, "teacher_path")
    if path is None:
        return None
    teacher = load_model(model_file(path))
    given, wanted = teacher.config.num_outputs, config.model.num_outputs
    if given != wanted:
        raise ValueError(
            f"[build_teacher] {path} predicts other tokens than the model, given {given} of them, allowed: {wanted}."
        )
    teacher.eval()
    return teacher


def build_tokenizer(config: RunConfig) -> Tokenizer:
    """Bytes, or the SentencePiece model at ``train.tokenizer_path``, checked against the model's vocabulary.

    Raises:
        FileNotFoundError, ValueError, ImportError: as of `load_tokenizer`.
        ValueError: the vocabulary is larger than the model's, or the model has learned from another tokenizer's tokens.
    """
    path = config.train.tokenizer_path
    if isinstance(config.model, GhostConfig):
        return ByteTokenizer(byte_end=True)
    vocab = config.model.vocab_size
    tokenizer = load_tokenizer(path) if path else ByteTokenizer(byte_end=vocab < ByteTokenizer().vocab_size)
    start = config.train.checkpoint_path
    kept = None if start is None or vocab <= ByteTokenizer().vocab_size else tokenizer_file(start)
    if kept is not None and kept.read_bytes() != getattr(tokenizer, "model", None):
        raise ValueError(
            f"[build_tokenizer] {start} has learned from the tokens of another tokenizer, given train.tokenizer_path = "
            f"{path}, allowed: {kept} or one like it."
        )
    if path is not None and tokenizer.vocab_size > vocab:
        raise ValueError(
            f"[build_tokenizer] {path} has {tokenizer.vocab_size} tokens, the model {vocab}; set model.vocab_size to "
            f"{tokenizer.vocab_size} or train a smaller tokenizer."
        )
    return tokenizer


def build_run(config: RunConfig, *, ranks: Ranks = ALONE, watcher: Watcher | None = None) -> tuple[Run, Data]:
    """Everything together; call ``resume`` and ``train`` on the run."""
    train = config.train
    model, tokenizer = build_model(config), build_tokenizer(config)
    data = build_data(config, tokenizer, ranks)
    teacher = build_teacher(config)
    trainer = Trainer(model, data.source, train, teacher=teacher, plain=data.plain, ranks=ranks)
    run = Run(
        trainer,
        train,
        score=_scorer(config, trainer, tokenizer, data),
        sample=_sampler(config, model, tokenizer),
        byte_level=tokenizer.kind != "sentencepiece",
        watcher=watcher,
        keep=lambda folder, replaces: _keep(config, tokenizer, folder, replaces),
    )
    return run, data


def _keep(config: RunConfig, tokenizer: Tokenizer, folder: Path, replaces: bool) -> None:
    """The configuration and the tokenizer, beside the checkpoints."""
    with atomic_file(folder / CONFIG_FILE) as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
    keep_tokenizer(tokenizer, folder / TOKENIZER, replaces=replaces)


def check_documents(documents: list[Document], limit: int = CHECK_BYTES) -> list[Document]:
    """The beginnings of held-out documents, an equal part of each up to `limit` bytes in all: quick to score."""
    each = max(512, limit // max(1, len(documents)))
    chosen: list[Document] = []
    left = limit
    for document in documents:
        if left <= 0:
            break
        part = document.data[: min(each, left)]
        chosen.append(Document(document.name, part))
        left -= len(part)
    return chosen


def _scorer(config: RunConfig, trainer: Trainer, tokenizer: Tokenizer, data: Data) -> Callable[[], float] | None:
    model = trainer.model
    if data.heldout:
        size = config.train.eval_batches * config.train.micro_batch_size * config.data.seq_len
        sample = check_documents(data.heldout, size)
        return lambda: evaluate(model, sample).bpb
    if data.heldout_source is None:
        return None
    make, train = data.heldout_source, config.train
    batches: list[Any] = []  # read once, so that every score is of the same ones

    def score() -> float:
        """Bits per byte of the targets that count; in the stage "dpo" the loss in bits per pair."""
        if not batches:
            source = make()
            batches.extend(next(source) for _ in range(train.eval_batches))
        bits = size = 0.0
        for batch in batches:
            if isinstance(batch, PreferenceBatch):
                bits += _preference_bits(model, trainer.reference, batch, train.dpo_beta)
                size += batch.chosen.tokens.shape[0]
            else:
                bits -= float(np.array(_log_likelihood(model, batch)).sum()) / math.log(2)
                size += _num_bytes(batch, tokenizer)
        return bits / max(1.0, size)

    return score


def _log_likelihood(model: Any, batch: TokenBatch) -> mx.array:
    return log_likelihood(model, batch_arrays(batch))


def _preference_bits(model: Any, reference: Any, batch: PreferenceBatch, beta: float) -> float:
    sides = (batch.chosen, batch.rejected)
    own, before = ([_log_likelihood(m, side) for side in sides] for m in (model, reference))
    loss, _ = preference_objective(own[0], own[1], before[0], before[1], beta)
    return float(np.array(loss).sum()) / math.log(2)


def _num_bytes(batch: TokenBatch, tokenizer: Tokenizer) -> int:
    counted = batch.targets if batch.weight is None else batch.targets[batch.weight > 0]
    if tokenizer.kind != "sentencepiece":
        return int(counted.size)
    return len(tokenizer.decode_bytes(counted.ravel().tolist()))


def _sampler(config: RunConfig, model: Any, tokenizer: Tokenizer) -> Callable[[str], str]:
    train = config.train

    def sample(prompt: str) -> str:
        if train.stage == "pretrain":
            ids = prompt_tokens(tokenizer, prompt)
        else:
            ids = ChatTemplate(tokenizer).prompt([Message("user", prompt)])
        random = np.random.default_rng(train.seed)
        said: list[int] = []
        for token in continuation(
            model,
            ids,
            lambda x: _choose(x, train.sample_temperature, random),
            tokenizer.vocab_size,
            train.sample_tokens,
        ):
            if train.stage != "pretrain" and token == tokenizer.specials["eos"]:
                break
            said.append(token)
        return tokenizer.decode_bytes(said).decode("utf-8", "replace")

    return sample


def _choose(logits: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    # The largest of logits with Gumbel noise is a draw from their softmax.
    return int((logits / temperature + random.gumbel(size=logits.shape)).argmax())

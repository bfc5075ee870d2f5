"""Streaming generation: one byte at a time through the model's state, so cost per byte does not grow with the text."""

from __future__ import annotations

import codecs
import itertools
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ghost_native.generate.sampling import check_sampling, choose

PROMPT_CHUNK = 4096  # bytes of a prompt fed at once: bounds memory for long ones
DRAW_CHUNK = 32  # random numbers made at once: one by one they take longer than a step of the model
EMPTY_PROMPT = b"\n"  # what stands between documents, so the start of a new one


class TokenCoder(Protocol):
    """What generation needs of a tokenizer."""

    num_outputs: int
    specials: dict[str, int]

    def encode(self, text: str | bytes) -> np.ndarray: ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes: ...


class StepModel(Protocol):
    """What generation needs of a model: `Ghost` has it."""

    def init_state(self, batch: int) -> Any:
        """A fresh recurrent state for `batch` streams."""
        ...

    def step(self, tokens: mx.array, state: Any) -> tuple[mx.array, Any]:
        """tokens (batch, seqlen >= 1) and a state -> logits (batch, seqlen, 256) and the next state."""
        ...


def generate(
    model: StepModel,
    prompt: str | bytes | npt.NDArray[np.int32] = b"",
    *,
    max_bytes: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: bytes | None = None,
    tokenizer: TokenCoder | None = None,
) -> Iterator[int]:
    """Generate bytes after a prompt, one by one as they are drawn.

    Args:
        model: a `Ghost`, or anything with `init_state` and `step`.
        prompt: str (as UTF-8) or bytes, fed in pieces of up to 4096; an empty one starts a new document. Or tokens
            (n,) as they are, such as `ChatTemplate.prompt` makes.
        max_bytes: the most bytes to generate.
        temperature, top_p: see `sample`.
        seed: the same seed gives the same bytes; a fresh one is drawn when None.
        stop: end when these bytes have come; they are not given out, nor is a part of them before it is clear that the
            rest does not follow.
        tokenizer: of a model of tokens, which are drawn whole and given out byte by byte; its token "eos" ends the
            text, other special tokens are not drawn. None for a model of bytes.

    Returns:
        An iterator of integers 0 to 255.

    Raises:
        ValueError: max_bytes below 0, an empty stop, temperature or top_p out of range. Raised by the call itself, not
            at the first byte. Also a prompt that a tokenizer without special tokens makes no tokens of.
    """
    check_sampling(temperature, top_p, "generate")
    if max_bytes < 0:
        raise ValueError(f"[generate] max_bytes is {max_bytes}, at least 0 is needed")
    if stop is not None and not stop:
        raise ValueError("[generate] stop is empty, give at least one byte or None")
    seed = secrets.randbits(32) if seed is None else seed
    ids = prompt if isinstance(prompt, np.ndarray) and prompt.size else _ids(prompt, tokenizer)
    drawn = _draw(model, ids, max_bytes, temperature, top_p, seed, tokenizer)
    if tokenizer is not None:
        drawn = itertools.islice(_bytes_of(drawn, tokenizer), max_bytes)
    return drawn if stop is None else _until(drawn, stop)


def _ids(prompt: str | bytes | npt.NDArray[np.int32], tokenizer: TokenCoder | None) -> npt.NDArray[np.int32]:
    data = (prompt.encode() if isinstance(prompt, str) else bytes(prompt)) or EMPTY_PROMPT
    return np.frombuffer(data, np.uint8).astype(np.int32) if tokenizer is None else prompt_tokens(tokenizer, data)


def prompt_tokens(tokenizer: TokenCoder, prompt: str | bytes) -> npt.NDArray[np.int32]:
    """At least one token (n,) of a prompt; one without any, such as a space to some tokenizers, starts a new document.

    Raises:
        ValueError: it has none, nor has the tokenizer one that documents are parted by.
    """
    ids = np.asarray(tokenizer.encode(prompt or EMPTY_PROMPT), np.int32)
    if ids.size:
        return ids
    between = [tokenizer.specials[name] for name in ("eos", "bos") if name in tokenizer.specials]
    if not between:
        raise ValueError(f"[generate] the tokenizer makes no tokens of the prompt {prompt!r}, at least one is needed")
    return np.array(between[:1], np.int32)


def _barred(tokenizer: TokenCoder) -> list[int]:
    """Tokens that are no text; the end of one is drawn, and then ends it."""
    return [token for name, token in tokenizer.specials.items() if name != "eos" and token < tokenizer.num_outputs]


def _bytes_of(drawn: Iterable[int], tokenizer: TokenCoder) -> Iterator[int]:
    for token in drawn:
        if token == tokenizer.specials.get("eos"):
            return
        yield from tokenizer.decode_bytes([token])


def _draw(
    model: StepModel,
    prompt: npt.NDArray[np.int32],
    count: int,
    temperature: float,
    top_p: float,
    seed: int,
    tokenizer: TokenCoder | None,
) -> Iterator[int]:
    """Up to `count` tokens, with a tokenizer those that it says text by."""
    if count == 0:
        return
    state = model.init_state(1)
    barred = [] if tokenizer is None else _barred(tokenizer)
    logits = mx.zeros((1, 1, 256))
    for begin in range(0, len(prompt), PROMPT_CHUNK):
        logits, state = model.step(mx.array(prompt[begin : begin + PROMPT_CHUNK])[None], state)
        mx.eval(logits)
    uniform = _uniform(seed, count) if temperature > 0 else iter([_UNUSED] * count)
    for index, draw in enumerate(uniform):
        row = np.array(
            logits[:, -1:].astype(mx.float32) if logits.shape[1] > 1 or logits.dtype != mx.float32 else logits
        ).reshape(1, -1)
        if tokenizer is not None:
            row = row[:, : tokenizer.num_outputs].copy()
            row[:, barred] = -np.inf
        token = int(choose(row, temperature, top_p, draw)[0])
        yield token
        if index + 1 < count:
            logits, state = model.step(mx.array([[token]]), state)


_UNUSED = np.zeros(1, np.float32)


def _uniform(seed: int, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """What `sample` draws with the keys of `count` bytes: each byte splits one off."""
    key = mx.random.key(seed)
    for begin in range(0, count, DRAW_CHUNK):
        keys = []
        for _ in range(min(DRAW_CHUNK, count - begin)):
            key, draw = mx.random.split(key)
            keys.append(draw)
        yield from np.array(mx.vmap(lambda k: mx.random.uniform(shape=(1,), key=k))(mx.stack(keys)))


def _until(drawn: Iterable[int], stop: bytes) -> Iterator[int]:
    """The bytes before the first occurrence of stop; held back while they may be its beginning."""
    held = bytearray()
    for byte in drawn:
        held.append(byte)
        if held.endswith(stop):
            yield from held[: -len(stop)]
            return
        keep = next(n for n in range(min(len(held), len(stop) - 1), -1, -1) if stop.startswith(held[len(held) - n :]))
        yield from held[: len(held) - keep]
        del held[: len(held) - keep]
    yield from held


def decode_stream(data: Iterable[int]) -> Iterator[str]:
    """Text for a terminal out of a stream of bytes: each character as soon as its last byte is there.

    Bytes that are not UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for byte in data:
        if text := decoder.decode(bytes((byte,))):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def generate_text(
    model: StepModel,
    prompt: str | bytes | npt.NDArray[np.int32] = b"",
    *,
    max_bytes: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: bytes | None = None,
    tokenizer: TokenCoder | None = None,
) -> str:
    """`generate` in one go, as text; bytes that are not UTF-8 become U+FFFD. The prompt is not repeated."""
    stream = generate(
        model,
        prompt,
        max_bytes=max_bytes,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        tokenizer=tokenizer,
    )
    return bytes(stream).decode("utf-8", "replace")

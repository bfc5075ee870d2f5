"""What a model makes of every byte of a text, as NumPy arrays ready to be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ghost_native.data.tokenizer import Tokenizer
    from ghost_native.models import Ghost, Transformer

CHUNK = 4096
FIRST_BYTE_BITS = 8.0  # nothing precedes it
FULL_BITS = 8.0  # bits at which a colour is full
BOUNDARY = 0.5  # boundary probability from which a byte begins a piece, as in `Ghost.segment`


@dataclass(frozen=True)
class Inspection:
    """Per byte of `data`, arrays of shape (len,).

    - surprise: 1 - probability that the router's cheap predictor gave the byte
    - bits: -log2 of the probability that the whole model gave it
    - depth: layers it went through
    - boundary: probability that a piece begins at it

    Of a transformer, pieces are tokens: a byte's surprise is 1 - probability that the model gave its token, its bits
    are its share of the token's, and `data` is the text as the tokenizer gives it back.
    """

    data: bytes
    surprise: np.ndarray
    bits: np.ndarray
    depth: np.ndarray
    boundary: np.ndarray
    num_layers: int
    routing: bool
    model: str = "Ghost"

    @property
    def starts(self) -> np.ndarray:
        """True where a piece begins; always at the first byte."""
        begins = self.boundary > BOUNDARY
        begins[:1] = True
        return np.asarray(begins)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(begin, end) of the pieces."""
        begins = [int(i) for i in np.flatnonzero(self.starts)]
        return list(zip(begins, [*begins[1:], len(self.data)], strict=True))

    def heat(self, by: str) -> np.ndarray:
        """0 to 1 for colours: by "surprise" or by "bits"."""
        return self.surprise if by == "surprise" else np.minimum(self.bits / FULL_BITS, 1.0)

    def facts(self) -> list[tuple[str, str]]:
        """The figures worth a line each."""
        n = len(self.data)
        depth = f"{self.depth.mean():.2f} of {self.num_layers}"
        return [
            ("bytes", f"{n:,}"),
            ("bits per byte", f"{self.bits.mean():.2f}"),
            ("mean surprise", f"{self.surprise.mean():.2f}"),
            ("pieces", f"{len(self.pieces):,}"),
            ("bytes per piece", f"{n / len(self.pieces):.1f}"),
            ("mean depth", depth if self.routing else f"{depth} (routing is off)"),
        ]


def inspect_bytes(model: Ghost, data: bytes) -> Inspection:
    """Run the model over the text once, the state carried through. ValueError for no bytes."""
    import mlx.core as mx

    if not data:
        raise ValueError("there is no text to inspect; give at least one byte")
    tokens = np.frombuffer(data, np.uint8).astype(np.int32)
    state = model.init_state(1)
    before = np.full((1, 256), -FIRST_BYTE_BITS * math.log(2))
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for begin in range(0, len(tokens), CHUNK):
        piece = tokens[begin : begin + CHUNK]
        out = model.forward(mx.array(piece)[None], state)
        state = out.state
        log_p = out.logits[0] - mx.logsumexp(out.logits[0], axis=-1, keepdims=True)
        mx.eval(log_p, out.surprise, out.depth, out.boundary_logit)
        guesses = np.concatenate([before, np.array(log_p, np.float64)])
        before = guesses[-1:]
        bits = -guesses[np.arange(len(piece)), piece] / math.log(2)
        boundary = np.array(mx.sigmoid(out.boundary_logit[0]), np.float64)
        for column, values in zip(
            columns,
            (np.array(out.surprise[0], np.float64), bits, np.array(out.depth[0], np.float64), boundary),
            strict=True,
        ):
            column.append(values)
    surprise, bits, wanted, boundary = (np.concatenate(column) for column in columns)
    config = model.config
    depth = np.full(len(tokens), float(config.num_layers))
    if config.routing:
        depth = np.clip(np.ceil(wanted), config.min_depth, config.num_layers)
    return Inspection(data, surprise, bits, depth, boundary, config.num_layers, config.routing)


def inspect_text(model: Ghost | Transformer, data: bytes, tokenizer: Tokenizer | None = None) -> Inspection:
    """Run a model of either kind over the text once. ValueError for no text."""
    from ghost_native.models import Ghost

    return inspect_bytes(model, data) if isinstance(model, Ghost) else _inspect_tokens(model, data, tokenizer)


def _inspect_tokens(model: Transformer, data: bytes, tokenizer: Tokenizer | None) -> Inspection:
    import mlx.core as mx

    tokens = np.frombuffer(data, np.uint8).astype(np.int32) if tokenizer is None else tokenizer.encode(data)
    pieces = [data[i : i + 1] if tokenizer is None else tokenizer.decode_bytes([t]) for i, t in enumerate(tokens)]
    data = b"".join(pieces)
    if not data:
        raise ValueError("there is no text to inspect; give at least one byte")
    state = model.init_state(1)
    parts = [np.full(1, -math.log(256 if tokenizer is None else tokenizer.vocab_size))]  # nothing precedes the first
    for begin in range(0, len(tokens) - 1, CHUNK):
        piece = tokens[begin : min(begin + CHUNK, len(tokens) - 1)]
        logits, state = model.step(mx.array(piece)[None], state)
        log_p = logits[0] - mx.logsumexp(logits[0], axis=-1, keepdims=True)
        targets = mx.array(tokens[begin + 1 : begin + 1 + len(piece)])
        picked = mx.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]
        mx.eval(picked, state)
        parts.append(np.array(picked, np.float64))
    log_p_of = np.concatenate(parts)
    lengths = np.array([len(piece) for piece in pieces])
    boundary = np.zeros(len(data))
    boundary[(np.cumsum(lengths) - lengths)[lengths > 0]] = 1.0
    # Tokens that stand for no byte are rare; what they cost is left out.
    bits = np.repeat(-log_p_of / math.log(2) / np.maximum(lengths, 1), lengths)
    layers = model.config.n_layers
    depth = np.full(len(data), float(layers))
    surprise = np.repeat(1 - np.exp(log_p_of), lengths)
    return Inspection(data, surprise, bits, depth, boundary, layers, routing=False, model="the transformer")


def byte_labels(data: bytes) -> list[str]:
    """What to show for each byte: a whole character at its first byte, nothing at the bytes that continue it.

    Control characters have pictures, bytes that are not UTF-8 are U+FFFD.
    """
    labels: list[str] = []
    at = 0
    while at < len(data):
        length = 1
        text = "\ufffd"
        for wanted in (1, 2, 3, 4):
            try:
                text = data[at : at + wanted].decode()
                length = wanted
                break
            except UnicodeDecodeError:
                continue
        if len(text) != 1:  # the piece ran over the end of the data
            text, length = "\ufffd", 1
        labels += [label_of(text)] + [""] * (length - 1)
        at += length
    return labels


def label_of(character: str) -> str:
    if character == "\n":
        return "\u21b5"
    if character == "\t":
        return "\u21e5"
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    return character if character.isprintable() else "\ufffd"

"""Streaming: one step a byte, seeds, stop sequences, UTF-8 as it arrives, errors."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.generate import decode_stream, generate, generate_text, sample
from ghost_native.generate import stream as stream_module
from tests.generate.fake import CopyModel, HashModel


def by_hand(prompt: bytes, count: int, temperature: float, top_p: float, seed: int) -> bytes:
    """The contract, without a state: the logits of the whole text so far, one key split a byte."""
    text, key = bytearray(prompt or b"\n"), mx.random.key(seed)
    start = len(text)
    for _ in range(count):
        key, draw = mx.random.split(key)
        model = HashModel()
        logits, _ = model.step(
            mx.array(np.frombuffer(bytes(text), np.uint8).astype(np.int32))[None], model.init_state(1)
        )
        text.append(int(sample(logits[:, -1], temperature, top_p, draw)[0]))
    return bytes(text[start:])


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)])
@pytest.mark.parametrize("prompt", [b"", b"abc", "h\u00e9".encode()])
def test_byte_by_byte_is_the_whole_text(prompt: bytes, temperature: float, top_p: float) -> None:
    model = HashModel()
    drawn = bytes(generate(model, prompt, max_bytes=9, temperature=temperature, top_p=top_p, seed=5))
    assert drawn == by_hand(prompt, 9, temperature, top_p, 5)
    assert model.pieces == [len(prompt) or 1] + [1] * 8, "the prompt in one chunk, then byte by byte, no step wasted"


def test_long_prompts_are_fed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bytes(generate(HashModel(), b"x" * 10, max_bytes=4, seed=1))
    monkeypatch.setattr(stream_module, "PROMPT_CHUNK", 4)
    model = HashModel()
    assert bytes(generate(model, b"x" * 10, max_bytes=4, seed=1)) == whole
    assert model.pieces == [4, 4, 2, 1, 1, 1]


def test_seeds() -> None:
    def run(seed: int | None) -> bytes:
        return bytes(generate(HashModel(), "ab", max_bytes=12, seed=seed))

    assert run(1) == run(1) != run(2)
    assert run(None) != run(None)


@given(st.binary(max_size=3), st.text(alphabet="ab", min_size=1, max_size=4), st.text(alphabet="ab", max_size=40))
def test_stop_cuts_at_its_first_occurrence(prompt: bytes, stop: str, text: str) -> None:
    said = (text + ".").encode()
    drawn = bytes(generate(CopyModel(said), prompt, max_bytes=len(said), temperature=0, stop=stop.encode()))
    assert drawn == said.split(stop.encode())[0]


def test_what_cannot_be_the_stop_is_given_out_at_once() -> None:
    seen: list[int] = []

    class Watched(CopyModel):
        def step(self, tokens: mx.array, state: int) -> tuple[mx.array, int]:
            seen.append(len(given_out))
            return super().step(tokens, state)

    given_out: list[int] = []
    for byte in generate(Watched(b"xyab!ab\n"), "p", max_bytes=8, temperature=0, stop=b"ab\n"):
        given_out.append(byte)  # noqa: PERF402 - the list is watched while it grows
    assert bytes(given_out) == b"xyab!"
    assert seen == [0, 1, 2, 2, 2, 5, 5, 5]


def test_nothing_to_generate_takes_no_step() -> None:
    model = HashModel()
    assert list(generate(model, "abc", max_bytes=0)) == [] and model.pieces == []


@given(st.binary(max_size=40))
def test_decoding_as_it_arrives_is_decoding_at_once(data: bytes) -> None:
    assert "".join(decode_stream(data)) == data.decode("utf-8", "replace")


def test_a_character_comes_with_its_last_byte() -> None:
    assert list(decode_stream("aé€".encode() + b"\xe2\x82")) == ["a", "é", "€", "\ufffd"]


def test_generate_text() -> None:
    assert generate_text(CopyModel("né\n".encode() + b"\xff"), max_bytes=5, temperature=0) == "né\n\ufffd"
    assert generate_text(CopyModel(b"yes\nno"), "q", temperature=0, stop=b"\n") == "yes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_bytes": -1}, r"\[generate\] max_bytes is -1, at least 0"),
        ({"stop": b""}, "stop is empty"),
        ({"temperature": -0.5}, r"\[generate\] temperature is -0.5"),
        ({"top_p": 2.0}, r"\[generate\] top_p is 2.0"),
    ],
)
def test_errors_come_with_the_call(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(HashModel(), "x", **arguments)

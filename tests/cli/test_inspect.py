"""inspect: the numbers, the terminal view, the page and the picture."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native import Ghost, GhostConfig
from ghost_native.cli import inspection, main
from ghost_native.cli.inspect_html import page
from ghost_native.cli.inspect_svg import picture
from ghost_native.cli.inspection import Inspection, byte_labels, inspect_bytes

TEXT = "Hello \u00e9\u20ac\n\tworld <script>alert(1)</script> & more".encode() + b"\xff\x00"


@pytest.fixture(scope="module")
def model() -> Ghost:
    return Ghost(GhostConfig(dim=32, num_layers=2, routing=True), seed=1)


def made_up(data: bytes, seed: int = 0) -> Inspection:
    draw = np.random.default_rng(seed)
    n = len(data)
    return Inspection(data, draw.random(n), 9 * draw.random(n), draw.integers(1, 5, n), draw.random(n), 4, True)


def test_the_numbers_are_those_of_the_model(model: Ghost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "CHUNK", 7)
    found = inspect_bytes(model, TEXT)
    tokens = mx.array(list(TEXT))[None]
    route, logits = model.route(tokens), np.array(model(tokens)[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    bits = -log_p[np.arange(len(TEXT) - 1), list(TEXT[1:])] / math.log(2)
    np.testing.assert_allclose(found.bits, [8.0, *bits], rtol=1e-4)
    np.testing.assert_allclose(found.surprise, np.array(route.surprise[0]), atol=1e-5)
    np.testing.assert_allclose(found.boundary, np.array(route.boundary_prob[0]), atol=1e-5)
    layers = np.clip(np.ceil(np.array(route.depth[0])), 1, 2)
    np.testing.assert_array_equal(found.depth, layers)
    assert [TEXT[a:b] for a, b in found.pieces] == model.segment(TEXT)


def test_colours_are_from_0_to_1() -> None:
    found = made_up(TEXT)
    assert found.heat("surprise") is found.surprise
    bits = found.heat("bits")
    assert bits.max() == 1 and np.array_equal(bits[bits < 1], found.bits[found.bits < 8] / 8)


def test_without_routing_every_byte_takes_every_layer() -> None:
    found = inspect_bytes(Ghost(GhostConfig(dim=32, num_layers=2), seed=1), b"abc")
    assert found.depth.tolist() == [2, 2, 2] and ("mean depth", "2.00 of 2 (routing is off)") in found.facts()


@given(st.binary(min_size=1, max_size=40))
def test_every_byte_has_one_label(data: bytes) -> None:
    labels = byte_labels(data)
    assert len(labels) == len(data) and labels[0]
    assert all(len(label) <= 1 and (not label or label.isprintable()) for label in labels)


def test_labels_of_whole_characters() -> None:
    assert byte_labels("a\u20acb".encode()) == ["a", "\u20ac", "", "", "b"]
    assert byte_labels(b"\xe2\x82") == ["\ufffd", "\ufffd"]
    assert byte_labels(b"\n\t\x1b") == ["\u21b5", "\u21e5", "\u241b"]


class Page(HTMLParser):
    """Counts cells and pieces, gathers attributes that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = 0
        self.pieces = 0
        self.external: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.cells += tag == "i"
        self.pieces += tag == "span" and ("class", "piece") in attrs
        self.external += [(name, value) for name, value in attrs if name in ("src", "href", "srcset", "data")]


@given(st.binary(min_size=1, max_size=60), st.integers(0, 9))
def test_the_page_holds_every_byte_and_loads_nothing(data: bytes, seed: int) -> None:
    found = made_up(data, seed)
    text = page(found, "a<b.safetensors")
    parsed = Page()
    parsed.feed(text)
    assert parsed.cells == len(data) and parsed.pieces == len(found.pieces) and parsed.external == []
    assert "http" not in text and "@import" not in text and "url(" not in text and "a<b" not in text
    match = re.search(r"const V=(\{.*?\}),LAYERS=4;", text)
    assert match is not None
    values = json.loads(match[1])
    assert values["byte"] == list(data) and values["depth"] == found.depth.tolist()
    assert all(len(column) == len(data) for column in values.values())


def test_the_page_is_for_light_and_dark_and_escapes() -> None:
    text = page(made_up(TEXT), "m")
    assert "prefers-color-scheme:dark" in text and "color-scheme:light dark" in text
    assert text.count("<script>") == 1 and text.count("<br>") == 1


@given(st.binary(min_size=1, max_size=300), st.integers(0, 9))
def test_the_picture_is_well_formed(data: bytes, seed: int) -> None:
    text = picture(made_up(data, seed))
    root = ElementTree.fromstring(text)
    rects = [element.get("class") for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert sum(str(name).startswith("h") for name in rects) == len(data) + 16  # and the legend's
    assert "href" not in text and "url(" not in text


def test_in_the_terminal_and_to_files(
    model: Ghost, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, source = tmp_path / "m.safetensors", tmp_path / "text"
    model.save(checkpoint)
    source.write_bytes(TEXT * 4)
    html, svg = tmp_path / "o.html", tmp_path / "o.svg"
    options = ["--file", str(source), "--max-bytes", str(len(TEXT)), "--html", str(html), "--svg", str(svg)]
    assert main(["inspect", str(checkpoint), *options]) == 0
    out, err = capsys.readouterr()
    assert f"the first {len(TEXT)} of {4 * len(TEXT)} bytes" in err and f"wrote {html}" in err and "\x1b" not in out
    assert out.count("text      ") == 2 and out.count("piece     \u2502") >= 1 and "mean depth" in out
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>") and svg.read_text().startswith("<svg")

    assert main(["inspect", str(checkpoint), "Hello", "--color-by", "bits", "--html", str(html)]) == 0
    assert "bits      " in capsys.readouterr().out and '<body data-show="e">' in html.read_text(encoding="utf-8")

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["inspect", str(checkpoint), "Hello"]) == 0
    assert "\x1b[" in capsys.readouterr().out

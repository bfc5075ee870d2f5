"""Models of both kinds, as files and folders, with and without a tokenizer: every command takes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.cli import configuration, main
from ghost_native.cli.inspection import inspect_text
from ghost_native.data import SentencePieceTokenizer, read_documents
from ghost_native.data.chat import ChatTemplate, Message
from ghost_native.generate import generate
from ghost_native.models import Ghost, GhostConfig, Transformer, TransformerConfig, export_model, load_model
from ghost_native.train import evaluate
from ghost_native.train.run_config import RunConfig
from ghost_native.train.saved import load_saved, model_file, tokenizer_file
from tests.cli.line_corpus import LINE, write_corpus

TEXT = "for each word in a line, \u00e9\u20ac"
SIZE = {"n_layers": 1, "d_model": 32, "n_heads": 2, "max_seq_len": 32, "dropout": 0.0}
VOCAB = 320


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    pytest.importorskip("sentencepiece", reason="needs the tokenizer extra")
    return SentencePieceTokenizer.train([LINE.format(k) for k in range(300)], VOCAB)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", 4)


@pytest.fixture
def run_folder(tokenizer: SentencePieceTokenizer, corpus: Path, tmp_path: Path) -> Path:
    """The folder of a run of a transformer of tokens; its tokenizer is gone from where the run read it."""
    path = tmp_path / "t.model"
    path.write_bytes(tokenizer.model)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": LINE.format(k)}) + "\n" for k in range(60)))
    sizes = [f"--set=model.{name}={value}" for name, value in {**SIZE, "vocab_size": VOCAB}.items()]
    folder = tmp_path / "run"
    assert main(["train", str(tmp_path / "rows.jsonl"), "--preset", "tiny", *sizes, "--steps", "2", "--batch", "2",
                 "--seqlen", "16", "--set", f"train.tokenizer_path={path}", "--save-dir", str(folder),
                 "--set", "data.num_workers=0", "--out", str(tmp_path / "kept.safetensors")]) == 0  # fmt: skip
    path.unlink()
    return folder


def test_a_run_keeps_its_tokenizer(run_folder, tmp_path, tokenizer):
    step = run_folder / "step-00000002"
    places = [run_folder, run_folder / "model.safetensors", step, step / "model.safetensors",
              tmp_path / "kept.safetensors"]  # fmt: skip
    for place in places:
        model, found = load_saved(place)
        assert isinstance(model, Transformer) and found is not None and found.fingerprint == tokenizer.fingerprint
        assert model.context == 16
    assert tokenizer_file(tmp_path / "kept.safetensors") == tmp_path / "kept.tokenizer.model"
    assert tokenizer_file(tmp_path / "other.safetensors") is None


def test_tokens_are_scored_continued_and_inspected(run_folder, corpus, capfdbinary, tokenizer):
    model = load_model(run_folder / "model.safetensors")
    assert main(["eval", str(run_folder), str(corpus), "--json"]) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert found["bpb"] == pytest.approx(evaluate(model, read_documents([corpus])[0], tokenizer=tokenizer).bpb)
    assert main(["generate", str(run_folder), "for each", "--max-bytes", "30", "--seed", "1"]) == 0
    drawn = bytes(generate(model, "for each", max_bytes=30, temperature=0.8, seed=1, tokenizer=tokenizer))
    assert capfdbinary.readouterr().out == drawn and len(drawn) <= 30
    assert main(["inspect", str(run_folder), TEXT, "--html", str(run_folder / "page.html")]) == 0
    assert "What the transformer sees" in (run_folder / "page.html").read_text(encoding="utf-8")
    assert main(["info", str(run_folder)]) == 0
    assert b"16 tokens, the longest it was trained on" in capfdbinary.readouterr().out


def test_a_transformer_is_inspected_token_by_token(tokenizer):
    model = Transformer(TransformerConfig(**SIZE, vocab_size=VOCAB), seed=0).eval()
    found = inspect_text(model, TEXT.encode(), tokenizer)
    ids = tokenizer.encode(TEXT)
    assert found.data == TEXT.encode() and found.starts.sum() == len(ids)
    logits = np.array(model(mx.array(ids)[None])[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = math.log(VOCAB) - log_p[np.arange(len(ids) - 1), ids[1:]].sum()
    assert found.bits.sum() == pytest.approx(nats / math.log(2), rel=1e-4)
    begin = found.pieces[3][0]
    assert found.surprise[begin] == pytest.approx(1 - math.exp(log_p[2, ids[3]]), abs=1e-5)
    assert ("mean depth", "1.00 of 1 (routing is off)") in found.facts()
    bare = inspect_text(Transformer(TransformerConfig(**SIZE, vocab_size=256)), b"abc")
    assert bare.bits[0] == 8 and len(bare.pieces) == 3
    with pytest.raises(ValueError, match="no text to inspect"):
        inspect_text(model, b"", tokenizer)


def test_only_text_is_drawn_and_the_end_token_ends_it(tokenizer):
    class Wants:
        """A model that wants one token above all, and next another."""

        def __init__(self, *wanted: int) -> None:
            self.wanted = wanted

        def init_state(self, batch):
            return 0

        def step(self, tokens, state):
            logits = np.zeros((1, tokens.shape[1], VOCAB + 8), np.float32)
            logits[0, -1, VOCAB + 3] = 9  # no token of the tokenizer
            for place, token in enumerate(self.wanted[state:]):
                logits[0, -1, token] = 8 - place
            return mx.array(logits), state

    word = int(tokenizer.encode("for")[0])
    user, end = tokenizer.specials["user"], tokenizer.specials["eos"]
    said = bytes(generate(Wants(user, word), "x", max_bytes=7, temperature=0, tokenizer=tokenizer))
    assert said == (tokenizer.decode_bytes([word]) * 7)[:7]
    assert list(generate(Wants(end), "x", max_bytes=7, temperature=0, tokenizer=tokenizer)) == []


def test_a_transformer_of_bytes_and_chats_reads_bytes(tmp_path, corpus, capfdbinary):
    path = tmp_path / "chat.safetensors"
    Transformer(TransformerConfig(**SIZE, vocab_size=262), seed=0).save(path)
    assert main(["generate", str(path), "x", "--max-bytes", "9", "--seed", "1"]) == 0
    odd = tmp_path / "odd.txt"
    odd.write_bytes(b"\x03 is a byte as others are")
    capfdbinary.readouterr()
    assert main(["eval", str(path), str(odd), "--json"]) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert found["bpb"] == evaluate(load_model(path), read_documents([odd])[0]).bpb
    Transformer(TransformerConfig(**SIZE, vocab_size=300), seed=0).save(path)
    assert main(["eval", str(path), str(corpus), "--tokenizer", "bytes"]) == 0


@pytest.mark.parametrize(
    ("vocab", "tokenizer_path", "message"),
    [
        (300, None, "is a transformer of 300 tokens without the tokenizer"),
        (100, "bytes", "cannot read bytes, given 100 tokens, allowed: at least 256"),
        (319, "t.model", "given 320 tokens, allowed: at most the 319 of the model"),
        (300, "nowhere", "no such tokenizer: nowhere"),
    ],
)
def test_tokenizers_that_do_not_fit(tmp_path, monkeypatch, tokenizer, vocab, tokenizer_path, message):
    monkeypatch.chdir(tmp_path)
    Path("t.model").write_bytes(tokenizer.model)
    Transformer(TransformerConfig(**SIZE, vocab_size=vocab)).save("m.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_saved("m.safetensors", tokenizer_path)
    Ghost(GhostConfig(dim=32, num_layers=1)).save("g.safetensors")
    with pytest.raises(ValueError, match="a Ghost reads bytes, given the tokenizer"):
        load_saved("g.safetensors", "t.model")


# -- conversations ----------------------------------------------------------------------------------------------------


def chatting(kind: str, tokenizer: SentencePieceTokenizer, path: Path) -> Path:
    """A model that can be told who speaks, saved, with its tokenizer if it has one."""
    if kind == "ghost":
        Ghost(GhostConfig(dim=32, num_layers=1, num_specials=6), seed=1).save(path)
        return path
    vocab = 262 if kind == "bytes" else VOCAB
    Transformer(TransformerConfig(**SIZE, vocab_size=vocab), seed=1).save(path)
    if kind == "tokens":
        path.with_name(f"{path.stem}.tokenizer.model").write_bytes(tokenizer.model)
    return path


@pytest.mark.parametrize("kind", ["ghost", "bytes", "tokens"])
def test_chat_asks_as_training_did(kind, tokenizer, tmp_path, capfdbinary):
    saved = load_saved(chatting(kind, tokenizer, tmp_path / "m.safetensors"))
    specials = saved.chat
    prompt = ChatTemplate(specials).prompt([Message("user", "what is a byte?")])
    assert prompt[0] == specials.specials["bos"] and prompt[-1] == specials.specials["assistant"]
    wanted = bytes(generate(saved.model, prompt, max_bytes=20, temperature=0.8, seed=3, tokenizer=specials))
    command = ["generate", str(tmp_path / "m.safetensors"), "--max-bytes", "20", "--seed", "3", "--chat"]
    assert main([*command, "what is a byte?"]) == 0
    assert capfdbinary.readouterr().out == wanted and wanted
    (tmp_path / "q.txt").write_text("what is a byte?\n")
    assert main([*command, "--prompt-file", str(tmp_path / "q.txt")]) == 0
    assert capfdbinary.readouterr().out == wanted, "the end of the line is no part of the question"
    assert main([*command, " "]) == 2


@pytest.mark.parametrize("kind", ["ghost", "bytes", "tokens"])
def test_an_answer_stops_at_the_end_token(kind, tokenizer, tmp_path, monkeypatch, capfdbinary):
    path = chatting(kind, tokenizer, tmp_path / "m.safetensors")
    coder = load_saved(path).chat
    said = [*coder.encode("a byte").tolist(), coder.specials["eos"], *coder.encode("more").tolist()]
    fed: list[int] = []

    def init_state(self, batch):
        return 0

    def step(self, tokens, state):
        fed.extend(np.array(tokens)[0].tolist())
        logits = np.zeros((1, tokens.shape[1], coder.vocab_size), np.float32)
        logits[0, -1, said[state]] = 9
        return mx.array(logits), state + 1

    for model in (Ghost, Transformer):
        monkeypatch.setattr(model, "init_state", init_state)
        monkeypatch.setattr(model, "step", step)
    assert main(["generate", str(path), "--chat", "what?", "--temperature", "0"]) == 0
    assert capfdbinary.readouterr().out == b"a byte"
    assert coder.specials["user"] in fed and coder.specials["assistant"] in fed


def test_chat_needs_special_tokens(tokenizer, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    for model in (MODELS["ghost"](), MODELS["transformer"]()):
        model.save(path)
        assert main(["generate", str(path), "--chat", "what?"]) == 1
        assert "no tokens that tell who speaks, given 256 tokens, allowed: at least 262" in capsys.readouterr().err
    chatting("tokens", tokenizer, path)
    saved = load_saved(path)
    saved.tokenizer.specials = {"bos": 1, "eos": 2}
    with pytest.raises(ValueError, match="has no 'system' token, it has bos, eos"):
        _ = saved.chat


# -- training on ------------------------------------------------------------------------------------------------------

MODELS = {
    "ghost": lambda **changes: Ghost(GhostConfig(**{"dim": 32, "num_layers": 1, **changes}), seed=3),
    "transformer": lambda **changes: Transformer(TransformerConfig(**{**SIZE, "vocab_size": 256, **changes}), seed=3),
    "2-bit transformer": lambda **changes: Transformer(
        TransformerConfig(**{**SIZE, "vocab_size": 256, "weights": "codebook", **changes}), seed=3
    ),
}
SHORT = ("--steps", "1", "--batch", "2", "--learning-rate", "1e-9")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", ["file", "exported", "run", "checkpoint"])
def test_init_takes_files_and_folders_of_both_kinds(kind, form, tmp_path, corpus, capsys):
    model, place = MODELS[kind](), tmp_path / "start"
    if form == "exported":
        export_model(model, place)
    else:
        place = {"run": place, "checkpoint": place / "step-00000004", "file": tmp_path}[form]
        place.mkdir(parents=True, exist_ok=True)
        model.save(place / "model.safetensors")
        place = place / "model.safetensors" if form == "file" else place
    assert main(["inspect", str(place), "some text"]) == 0
    out = tmp_path / "on.safetensors"
    length = () if kind != "ghost" else ("--seqlen", "16")
    assert main(["train", str(corpus), "--init", str(place), *SHORT, *length, "--out", str(out)]) == 0
    trained = load_model(out)
    assert trained.config == model.config or form == "exported"
    before, after = model.weights(), trained.weights()
    assert before.keys() == after.keys()
    assert all(mx.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_init_of_a_run_brings_its_tokenizer_and_length(run_folder, tmp_path):
    out = tmp_path / "on.safetensors"
    assert main(["train", str(tmp_path / "rows.jsonl"), "--init", str(run_folder), *SHORT, "--out", str(out)]) == 0
    config = RunConfig.load(tmp_path / "on-run" / "config.yaml")
    assert config.train.tokenizer_path == str(run_folder / "tokenizer.model") and config.data.seq_len == 16
    assert load_saved(out).tokenizer is not None


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("ghost", ["--set", "model.dim=48"], "given model.dim = 32, allowed: 48"),
        ("transformer", ["--set", "model.d_model=48"], "given model.d_model = 32, allowed: 48"),
        ("transformer", ["wide.yaml"], "given model.n_layers = 1, allowed: 3"),
        ("transformer", ["ghost.yaml"], "is a transformer, which ghost.yaml does not describe"),
        ("ghost", ["--preset", "tiny"], "model.type does not fit, given 'ghost'"),
        ("transformer", ["--preset", "production"], "model.type does not fit, given 'transformer'"),
        ("transformer", ["--seqlen", "33"], "data.seq_len is out of range, given 33, allowed: at most"),
    ],
)
def test_init_of_another_shape_is_an_error(kind, arguments, message, tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    MODELS[kind]().save("m.safetensors")
    Path("wide.yaml").write_text("model: {n_layers: 3, vocab_size: 256}\ndata: {seq_len: 16}\n")
    Path("ghost.yaml").write_text("model: {type: ghost}\n")
    assert main(["train", *arguments, str(corpus), "--init", "m.safetensors", *SHORT, "--save-dir", "run"]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_configuration_that_leaves_the_size_open_takes_that_of_init(tmp_path, corpus, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MODELS["transformer"]().save("m.safetensors")
    Path("run.yaml").write_text("data: {seq_len: 8}\ntrain: {lr: 1e-9, total_steps: 1}\n")
    assert main(["train", "run.yaml", str(corpus), "--init", "m.safetensors", "--save-dir", "run"]) == 0
    assert load_model("run/model.safetensors").config == MODELS["transformer"]().config
    assert configuration.TRANSFORMER_PRESET == "tiny"


@pytest.mark.parametrize(
    ("arguments", "length"),
    [(["run.yaml"], 12), (["--preset", "tiny"], 12), (["stated.yaml"], 8), (["run.yaml", "--seqlen", "9"], 9)],
)
def test_init_brings_its_length_where_nothing_else_is_said(arguments, length, tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = MODELS["transformer"]()
    model.context = 12
    model.save("m.safetensors")
    Path("run.yaml").write_text("train: {lr: 1e-9}\n")
    Path("stated.yaml").write_text("data: {seq_len: 8}\n")
    assert (
        main(["train", *arguments, "--init", "m.safetensors", "--print-config", "--set", f"data.paths=[{corpus}]"]) == 0
    )
    assert RunConfig.parse(capsys.readouterr().out).data.seq_len == length


def test_init_refuses_another_tokenizer_of_its_size(run_folder, tmp_path, tokenizer, capsys):
    other = SentencePieceTokenizer.train([LINE.upper().format(k) for k in range(300)], VOCAB)
    (tmp_path / "other.model").write_bytes(other.model)
    (tmp_path / "same.model").write_bytes(tokenizer.model)
    arguments = ["train", str(tmp_path / "rows.jsonl"), "--init", str(run_folder), *SHORT, "--save-dir"]
    for name, code in (("other", 1), ("same", 0)):
        path = str(tmp_path / f"{name}.model")
        assert main([*arguments, str(tmp_path / name), "--set", f"train.tokenizer_path={path}"]) == code
    error = " ".join(capsys.readouterr().err.split())
    assert "has learned from the tokens of another tokenizer, given train.tokenizer_path =" in error
    assert not (tmp_path / "other").exists()


def test_a_model_of_bytes_takes_the_place_of_one_of_tokens_with_its_tokenizer(run_folder, corpus, tmp_path):
    out = tmp_path / "kept.safetensors"
    assert (tmp_path / "kept.tokenizer.model").exists()
    assert main(["train", str(corpus), "--preset", "phone", "--dim", "32", "--layers", "1", "--seqlen", "16", *SHORT,
                 "--out", str(out), "--save-dir", str(tmp_path / "bytes")]) == 0  # fmt: skip
    assert not (tmp_path / "kept.tokenizer.model").exists() and load_saved(out).tokenizer is None


def test_prompts_without_tokens(tokenizer):
    class Silent:
        """A tokenizer that some prompts are nothing to, as those are that take spaces away."""

        num_outputs = VOCAB

        def __init__(self, specials: dict[str, int]) -> None:
            self.specials = specials

        def encode(self, text):
            return np.array([], np.int32)

        def decode_bytes(self, ids):
            return tokenizer.decode_bytes(ids)

    model = Transformer(TransformerConfig(**SIZE, vocab_size=VOCAB), seed=0)
    values = {"max_bytes": 5, "temperature": 0, "tokenizer": Silent({"bos": 1, "eos": 2})}
    first = int(model(mx.array([[2]]))[0, -1].argmax())
    for prompt in ("", " "):
        assert bytes(generate(model, prompt, **values)).startswith(tokenizer.decode_bytes([first])[:5])
    with pytest.raises(
        ValueError, match=r"\[generate\] the tokenizer makes no tokens of the prompt b' ', at least one"
    ):
        generate(model, " ", tokenizer=Silent({}))


def test_what_is_packed_or_missing_cannot_be_trained_on(tmp_path, corpus, capsys):
    path = tmp_path / "packed.safetensors"
    MODELS["2-bit transformer"]().pack().save(path)
    assert main(["train", str(corpus), "--init", str(path)]) == 1
    assert "is packed to 2 bits, which cannot be trained" in capsys.readouterr().err
    assert main(["info", str(path)]) == 0
    assert main(["train", str(corpus), "--init", str(tmp_path / "none")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="is a folder without a model"):
        model_file(corpus)

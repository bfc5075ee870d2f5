"""Questions asked of a model: what counts as right, and learning some by heart."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.cli import main
from ghost_native.data.chat import Message
from ghost_native.data.tokenizer import ByteTokenizer
from ghost_native.train.questions import Answers, Question, ask, read_questions

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ByteTokenizer(byte_end=True)
END = bytes([TOKENIZER.specials["eos"]])


class Parrot:
    """Says the same to everything."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def init_state(self, batch: int) -> int:
        return 0

    def step(self, tokens: mx.array, state: int) -> tuple[mx.array, int]:
        logits = np.zeros((1, tokens.shape[1], 262), np.float32)
        logits[..., self.text[min(state, len(self.text) - 1)]] = 1.0
        return mx.array(logits), state + 1


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_answer_is_right_in_every_byte_with_its_end(tmp_path):
    path = write(tmp_path / "q.jsonl", [{"prompt": "1+1?", "response": "two"}, {"prompt": "3-1?", "response": "Two"}])
    questions = read_questions(path)
    assert [question.answer for question in questions] == ["two", "Two"]
    done = []
    found = ask(Parrot(b"two" + END), TOKENIZER, questions, done.append)
    assert found == Answers(1, 2, (("3-1?", "Two", "two"),)) and found.share == 0.5 and done == [1, 2]
    assert ask(Parrot(b"twofold" + END), TOKENIZER, questions).right == 0
    endless = ask(Parrot(b"two"), TOKENIZER, questions)
    assert endless.right == 0 and endless.failures[0][2] == "(no end)"


def test_conversations_are_asked_for_their_last_answer(tmp_path):
    said = [("system", "be brief"), ("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    rows = [{"talk": [{"role": role, "content": content} for role, content in said]}]
    (question,) = read_questions(write(tmp_path / "q.jsonl", rows), {"talk": "messages"})
    assert question == Question(question.messages, "d") and [m.content for m in question.messages][-1] == "c?"
    rows[0]["talk"].pop()
    with pytest.raises(ValueError, match="does not end in an answer to something, given user"):
        read_questions(write(tmp_path / "q.jsonl", rows), {"talk": "messages"})
    with pytest.raises(ValueError, match="holds no questions, at least one is needed"):
        read_questions(write(tmp_path / "none.jsonl", []))


class Indenting(ByteTokenizer):
    """Puts a space in front of what it reads, as tokenizers with a dummy prefix do."""

    def encode(self, text):
        return super().encode(b" " + (text.encode() if isinstance(text, str) else text))


def test_an_answer_is_compared_as_the_tokenizer_says_it():
    question = Question((Message("user", "1+1?"),), "two")
    assert ask(Parrot(b" two" + END), Indenting(byte_end=True), [question]).right == 1
    assert ask(Parrot(b"two" + END), Indenting(byte_end=True), [question]).right == 0


def test_the_example_learns_by_heart_what_it_is_asked(tmp_path, capsys):
    lines = (ROOT / "configs" / "questions.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) == len(lines) == 100
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:4]) + "\n")
    sizes = ("--dim", "64", "--layers", "2", "--steps", "150", "--batch", "4", "--learning-rate", "1e-2")
    quiet = ("--set", "train.sample_interval=0", "--set", "data.seq_len=48", "--save-dir", str(tmp_path / "run"))
    arguments = ["train", str(ROOT / "configs" / "questions.yaml"), str(few), *sizes, *quiet, "--ask"]
    assert main([*arguments, str(few)]) == 0
    assert "4 of 4 answered right to the byte, 100.0%" in capsys.readouterr().out
    learned = json.loads(lines[2])
    assert main(["generate", str(tmp_path / "run"), "--chat", learned["prompt"], "--temperature", "0"]) == 0
    assert capsys.readouterr().out == learned["response"], "and nothing after its end"


def test_ask_is_refused_where_nothing_is_answered(tmp_path, capsys):
    few = write(tmp_path / "q.jsonl", [{"prompt": "1+1?", "response": "two"}])
    assert main(["train", str(few), "--ask", str(few)]) == 2
    assert "--ask is for models tuned to answer: train.stage sft or dpo, given pretrain" in capsys.readouterr().err
    config = str(ROOT / "configs" / "questions.yaml")
    assert main(["train", config, "--ask", str(tmp_path / "nowhere.jsonl")]) == 1
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert main(["train", config, "--ask", "questions"]) == 1
    assert "no such file of questions: questions" in capsys.readouterr().err

"""The `data` section of a run: what is read, how it is cut up, and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ghost_native.models.checked import CheckedConfig, Rule
from ghost_native.models.keys import key

Format = Literal["auto", "text", "jsonl", "shards"]

PYTHON = "python"  # as a dataset: the running Python's own text
HELDOUT = 0.05
OF_DATASETS = ("config", "split", "streaming", "cache_dir")  # keys for what is read by the `datasets` library
FIELDS = ("text_field", "chat_field", "prompt_field", "answer_field", "chosen_field", "rejected_field")


@dataclass(frozen=True)
class DataConfig(CheckedConfig):
    """What a run learns from: files and folders (`paths`), or a dataset of HuggingFace (`dataset`)."""

    dataset: str | None = key(
        None, "HuggingFace dataset, such as allenai/c4, or python for this Python's own text; None to read paths"
    )
    config: str | None = key(None, "configuration of the dataset, if it has several; None for the only one")
    split: str = key("train", "split of the dataset")
    streaming: bool = key(True, "read the dataset as it arrives; off, download the whole of it first")
    shuffle_buffer: int = key(1000, "records that are read ahead and shuffled; 1 keeps the order of the data", low=1)
    num_workers: int = key(2, "threads that make batches ahead; 0 makes a batch when it is due", low=0)
    cache_dir: str | None = key(None, "where downloads are kept; None for HuggingFace's own place")

    paths: tuple[str, ...] = key((), "files and folders to read, instead of a dataset")
    format: Format = key(
        "auto",
        "how files are read, whatever their names: as text, as jsonl with one record a line, as shards of tokens; auto "
        "tells by the names",
    )
    heldout: float = key(HELDOUT, "share of the data that is held out to score the model with", low=0, high=0.5)
    heldout_paths: tuple[str, ...] = key((), "files and folders to hold out, instead of a share")

    text_field: str = key("text", "field of a record that holds its text")
    chat_field: str = key("messages", "stage sft: field with the list of messages, each with role and content")
    prompt_field: str = key("prompt", "stages sft and dpo: field with the prompt")
    answer_field: str = key("response", "stage sft: field with the answer to the prompt, of records without messages")
    chosen_field: str = key("chosen", "stage dpo: field with the better answer")
    rejected_field: str = key("rejected", "stage dpo: field with the worse answer")

    packing: bool = key(True, "stage sft: several conversations in one sequence")
    seq_len: int = key(2048, "length of the sequences trained on", low=1, unit="tokens")
    seed: int = key(0, "of the order of the data", low=0)

    RULES = (
        Rule("paths", "an empty list", lambda c: not (c.dataset and c.paths), where="there is a dataset"),
        Rule("format", "'auto'", lambda c: not c.dataset or c.format == "auto", where="there is a dataset"),
        Rule("heldout", f"{HELDOUT:g}; some of that text is held out anyway",
             lambda c: c.dataset != PYTHON or c.heldout == HELDOUT, where="dataset is python"),
    )  # fmt: skip

    def fields(self, stage: str) -> dict[str, str]:
        """What the fields of records are called that a stage of training needs, by their names there."""
        return {
            "pretrain": {self.text_field: "text"},
            "sft": {self.chat_field: "messages", self.prompt_field: "prompt", self.answer_field: "response"},
            "dpo": {self.prompt_field: "prompt", self.chosen_field: "chosen", self.rejected_field: "rejected"},
        }[stage]

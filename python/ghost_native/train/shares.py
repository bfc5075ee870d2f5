"""What each process of a run has for itself, the recurrent state of its share of the rows, in the one checkpoint."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import mlx.core as mx

from ghost_native.train.checkpoint import join_tree, split_tree
from ghost_native.train.ranks import Ranks

_OWN = ("carried", "teacher_carried")  # of `Trainer.state`
_OTHERS = "other_processes"


def with_all_shares(ranks: Ranks, state: dict[str, Any]) -> dict[str, Any]:
    """In the first process its state with what the others have; each process must call this at the same point."""
    if ranks.size == 1:
        return state
    said = ranks.gather(_encode({name: state[name] for name in _OWN}))
    if not ranks.first:
        return state
    return {**state, _OTHERS: [_decode(text) for text in said[1:]]}


def with_own_share(ranks: Ranks, state: dict[str, Any]) -> dict[str, Any]:
    """The state of this process. With another number of processes than before, what is carried starts anew."""
    others = state.get(_OTHERS, [])
    if len(others) + 1 != ranks.size:
        return {**state, **{name: [None] * len(state[name]) for name in _OWN}}
    return state if ranks.first else {**state, **others[ranks.rank - 1]}


def _encode(tree: Any) -> str:
    arrays, values = split_tree(tree)
    file = io.BytesIO()
    mx.save_safetensors(file, arrays, {"values": json.dumps(values)})
    return base64.b64encode(file.getvalue()).decode()


def _decode(text: str) -> Any:
    file = io.BytesIO(base64.b64decode(text))
    loaded: Any = mx.load(file, format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    return join_tree(arrays, json.loads(metadata["values"]))

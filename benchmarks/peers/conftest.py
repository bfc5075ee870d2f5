"""Rivals right after one another, and short ones in two turns: a slow phase of a machine should meet them all alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TURNS = (1, 2)


@pytest.fixture(params=TURNS, ids="turn {}".format)
def turns() -> None:
    """Times a test once more when all that compete with it had their turn; the fastest round of both counts."""


def parameters(item: pytest.Item) -> dict[str, Any]:
    return dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def turn(item: pytest.Item) -> int:
    number: int = parameters(item).get("turns", TURNS[0])
    return number


def contest(item: pytest.Item) -> tuple[Any, ...]:
    """What the tests that compete with one another have in common."""
    given = parameters(item)
    arithmetic = given.get("activation", given.get("dtype", "float32"))
    both = item.name.split("[")[0].endswith("_both")
    return item.path.name, given.get("operator", ""), given.get("shape", ()), arithmetic, both


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Peers are sorted by contest and turn, and a contest stays where its first test was; others are left alone."""
    if config.getoption("--quick"):
        again = [item for item in items if turn(item) != TURNS[0]]
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]
    places = [i for i, item in enumerate(items) if HERE in item.path.parents]
    peers = [items[i] for i in places]
    first: dict[tuple[Any, ...], int] = {}
    for n, item in enumerate(peers):
        first.setdefault(contest(item), n)
    in_turn = sorted(peers, key=lambda item: (first[contest(item)], turn(item)))
    for i, item in zip(places, in_turn, strict=True):
        items[i] = item

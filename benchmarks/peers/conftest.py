"""Rivals right after one another: a machine's slow phases last seconds and should meet all of them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def contest(item: pytest.Item) -> tuple[Any, ...]:
    """What the tests that compete with one another have in common."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    arithmetic = parameters.get("activation", parameters.get("dtype", "float32"))
    both = item.name.split("[")[0].endswith("_both")
    return item.path.name, parameters.get("operator", ""), parameters.get("shape", ()), arithmetic, both


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Peers are sorted by contest, where each contest stays where its first test was; others are left alone."""
    places = [i for i, item in enumerate(items) if HERE in item.path.parents]
    peers = [items[i] for i in places]
    first: dict[tuple[Any, ...], int] = {}
    for n, item in enumerate(peers):
        first.setdefault(contest(item), n)
    for i, item in zip(places, sorted(peers, key=lambda item: first[contest(item)]), strict=True):
        items[i] = item

"""The emulator runs on Linux. On a Mac the tests of kernels run on the device, those of the emulator are skipped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Of kernels rather than of the emulator: they run wherever there is Metal.
ANYWHERE = {"test_codebook_matmul.py", "test_codebook_matmul_grad.py", "test_translate.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform == "linux":
        return
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.name not in ANYWHERE:
            item.add_marker(pytest.mark.skip(reason="the emulator of Metal kernels needs Linux"))

"""Libraries that only some installations have."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str, name: str) -> Any:
    """Import an optional library.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(f"[{name}] needs {module}: pip install 'ghost-native[{extra}]'") from error

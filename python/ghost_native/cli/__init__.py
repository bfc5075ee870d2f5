"""The command line: `ghost-native VERB`, one module per verb, imported only when its verb is called."""

from __future__ import annotations

from ghost_native.cli.app import main

__all__ = ["main"]

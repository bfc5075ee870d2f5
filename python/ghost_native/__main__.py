"""`python -m ghost_native`: the same as the command `ghost-native`."""

from __future__ import annotations

from ghost_native.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

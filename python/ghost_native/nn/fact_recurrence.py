"""Recurrences of `FactMemory`: any seqlen, state in, state out, memory linear in seqlen."""

from __future__ import annotations

from ghost_native.ops import began_ago, decayed_sum, last_events

__all__ = ["began_ago", "decayed_sum", "last_events"]

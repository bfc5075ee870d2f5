"""How much memory a run takes: MLX's own count, the process's, and what the machine has left."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import asdict, dataclass

import mlx.core as mx


@dataclass(frozen=True)
class MemoryUse:
    """All in bytes; None where it cannot be told (psutil is not installed).

    Attributes:
        active: arrays alive now.
        peak: most that were alive at once since the last reset.
        cached: freed, and kept by MLX for reuse.
        process: resident memory of the process at its highest.
        available: what the machine could still give.
    """

    active: int
    peak: int
    cached: int
    process: int
    available: int | None

    def metrics(self) -> dict[str, int | None]:
        """As logged."""
        return {f"{name}_memory_bytes": value for name, value in asdict(self).items()}


def memory_use() -> MemoryUse:
    """The memory in use now. Costs some microseconds."""
    unit = 1 if sys.platform == "darwin" else 1024
    return MemoryUse(
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        cached=mx.get_cache_memory(),
        process=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        available=_available(),
    )


def _available() -> int | None:
    try:
        import psutil
    except ImportError:  # of the train extra; training goes on without this one number
        return None
    return int(psutil.virtual_memory().available)


def total_memory() -> int:
    """Bytes of main memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MemoryMonitor:
    """Watches a run: the highest use, and a warning once when the machine runs short.

    Args:
        low: bytes left on the machine below which :meth:`check` warns.
    """

    def __init__(self, low: int = 512 << 20) -> None:
        self.low, self._warned = low, False
        mx.reset_peak_memory()

    def check(self) -> tuple[MemoryUse, str | None]:
        """The use now, and a sentence the first time that memory is short."""
        use = memory_use()
        if use.available is None or use.available >= self.low or self._warned:
            return use, None
        self._warned = True
        return use, (
            f"only {use.available / 1e9:.1f} GB of memory are left, this run holds {use.peak / 1e9:.1f} GB; a smaller "
            "micro_batch_size or seq_len, or gradient_checkpointing, takes less"
        )

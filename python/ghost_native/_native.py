"""Loading of the compiled module, and what it tells about this machine."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx  # before _ext: it loads libmlx and registers the array type that _ext shares


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


try:
    from ghost_native import _ext
except ImportError as error:
    raise ImportError(
        f"ghost_native's compiled module does not load with mlx {_installed('mlx')}: {error}. "
        "Reinstall both together: pip install --force-reinstall ghost-native"
    ) from error


def _check_array_type() -> None:
    """One real call: arrays must cross between the two compiled modules, whose nanobind ABIs have to agree."""
    try:
        _ext.causal_conv1d(mx.zeros((1, 0, 1)), mx.zeros((1, 2)), stream=mx.cpu)
    except TypeError as error:
        raise ImportError(
            f"ghost_native {_ext.version} was built for mlx {_ext.mlx_version}, but mlx {_installed('mlx')} is "
            f"installed and its arrays are not accepted. Fix: pip install 'mlx=={_ext.mlx_version}' (on Linux "
            f"'mlx[cpu]=={_ext.mlx_version}'), or rebuild: pip install --force-reinstall --no-cache-dir ghost-native"
        ) from error


_check_array_type()


def cpu_features() -> dict[str, str | int | list[str]]:
    """What the CPU kernels run on: the active instruction set, those supported here, and the number of threads.

    ``GHOST_NATIVE_ISA`` forces an instruction set and ``GHOST_NATIVE_THREADS`` the thread count, both before import.
    """
    return {"isa": _ext.isa(), "supported": _ext.supported_isas(), "threads": _ext.num_threads()}


def num_threads() -> int:
    """Threads the CPU kernels use, the calling one included."""
    return _ext.num_threads()


def set_num_threads(n: int) -> None:
    """Use n threads (1 to 256) from now on. Results do not depend on it, bit for bit."""
    _ext.set_num_threads(n)


@contextmanager
def composed_form() -> Iterator[None]:
    """Build operators from MLX's own operations instead of our kernels, for comparisons and debugging.

    Applies to operators called inside the ``with`` block on this thread.
    """
    before = _ext.force_composed()
    _ext.set_force_composed(True)
    try:
        yield
    finally:
        _ext.set_force_composed(before)


def tune_allocator() -> bool:
    """Have glibc keep freed memory instead of returning it to the system. True where that was done.

    MLX allocates every intermediate result anew; by default blocks above 128 KiB go back to the system when freed, and
    the page faults of the next use cost more than small operations themselves. Unused memory then stays with the
    process. Call it early in a program that trains; the command line does. Nothing happens on other systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8  # parameters of malloc.h
    # Some versions of glibc take no threshold over 32 MiB.
    large = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)
    done = large and mallopt(arena_max, 1) and mallopt(top_pad, 64 << 20)
    return bool(done and mallopt(trim_threshold, (1 << 31) - 1))

"""NumPy's dense product, on the OpenBLAS inside its wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_info, threadpool_limits

import ghost_native as gn


@contextmanager
def blas() -> Iterator[str]:
    """Give it as many threads as our kernels have; its name and kernels, such as `OpenBLAS SkylakeX`."""
    own = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    name = {"openblas": "OpenBLAS", "mkl": "MKL"}.get(own[0]["internal_api"], own[0]["internal_api"]) if own else "BLAS"
    kernels = own[0].get("architecture", "") if own else ""
    with threadpool_limits(gn.num_threads(), user_api="blas"):
        yield f"{name} {kernels}".strip()

"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import mlx.core as mx

import ghost_native as gn
from ghost_native.cli import blas

PACKAGES = ("mlx", "numpy", "torch", "jax", "onnxruntime", "mambapy", "mlx-recurrence")


def machine() -> dict[str, Any]:
    """CPU, instruction set, threads, the BLAS of MLX, device and versions of ours and of rivals that are installed."""
    features = gn.cpu_features()
    return {
        "cpu": cpu_model(),
        "isa": features["isa"],
        "threads": features["threads"],
        "blas": blas.running().name,
        "device": str(mx.default_device()).removeprefix("Device(").removesuffix(")"),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {"ghost_native": gn.__version__, **versions()},
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}

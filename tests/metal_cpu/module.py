"""The operators of ghost_native with their Metal kernels, on the CPU.

Builds the module ``_ext_metal_cpu`` from the project's sources, compiles the kernels of metal/ for the CPU, and puts
the emulated operators in the place of the native ones.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest

import ghost_native
from ghost_native import _ext
from tests.metal_cpu.compiler import compile_all
from tests.metal_cpu.report import Report

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "metal_cpu"
LIBRARIES = sorted((ROOT / "metal").glob("*/*.metal"))


@dataclass(frozen=True)
class LaunchRecord:
    """One launch of a kernel as the host code made it."""

    library: str
    kernel: str
    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    report: Report


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(c) for c in command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")


def _tool(name: str) -> str:
    """A program of this environment, or else of the system."""
    found = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeError(f"{name} is not installed: pip install '.[test]'")
    return found


@functools.cache
def module() -> ModuleType:
    """The compiled module, built when its sources have changed."""
    # One build for each environment: CMake remembers where MLX and nanobind are.
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    folder = BUILD / f"module-{sys.implementation.cache_tag}-{environment}"
    version = ghost_native.__version__
    _run(
        *(_tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"),
        *("-DGHOST_NATIVE_METAL_CPU=ON", "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"),
        *(f"-DSKBUILD_PROJECT_VERSION={version}", f"-DSKBUILD_PROJECT_VERSION_FULL={version}"),
    )
    _run(_tool("cmake"), "--build", folder)
    [path] = folder.rglob(f"_ext_metal_cpu{sysconfig.get_config_var('EXT_SUFFIX')}")
    spec = importlib.util.spec_from_file_location("_ext_metal_cpu", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


_loaded = ""


def use(flavour: str) -> ModuleType:
    """The module, running kernels compiled in this flavour."""
    global _loaded
    built = module()
    if _loaded != flavour:
        for path, compiled in zip(LIBRARIES, compile_all(LIBRARIES, flavour, [ROOT / "metal"]), strict=True):
            built.emulator.use_library(path.stem, str(compiled))
        _loaded = flavour
    return built


@contextmanager
def load(flavour: str = "fast") -> Iterator[ModuleType]:
    """Inside the block ghost_native's operators run their Metal kernels, emulated on the CPU stream."""
    built = use(flavour)
    names = [name for name in dir(built) if not name.startswith("_") and hasattr(_ext, name)]
    before = {name: getattr(_ext, name) for name in names}
    try:
        for name in names:
            setattr(_ext, name, getattr(built, name))
        yield built
    finally:
        for name, native in before.items():
            setattr(_ext, name, native)


@contextmanager
def on_metal() -> Iterator[None]:
    """Inside the block operators run their Metal kernels: on the GPU where there is one, else emulated.

    On a Mac with GHOST_NATIVE_METAL=0 they run there as MLX's own operations.
    """
    if mx.metal.is_available():
        before = mx.default_device()
        mx.set_default_device(mx.gpu)
        try:
            yield
        finally:
            mx.set_default_device(before)
    elif sys.platform == "linux":
        with load():
            yield
    else:
        pytest.skip("no Metal device, and the emulator of Metal kernels needs Linux")


@contextmanager
def recorded_launches(flavour: str = "traced") -> Iterator[list[LaunchRecord]]:
    """As ``load``; the list holds the launches when the block has ended. Arrays must be evaluated inside it."""
    launches: list[LaunchRecord] = []
    with load(flavour) as built:
        built.emulator.take_launches()
        built.emulator.record(True)
        try:
            yield launches
            mx.synchronize(mx.default_stream(mx.cpu))
        finally:
            built.emulator.record(False)
            for library, kernel, groups, threads, report in built.emulator.take_launches():
                launches.append(LaunchRecord(library, kernel, tuple(groups), tuple(threads), Report.from_bytes(report)))

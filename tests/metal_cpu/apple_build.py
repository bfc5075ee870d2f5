"""The project as a Mac would build it.

Every source is compiled for macOS on arm64 against the headers of the macOS wheel of MLX, and the symbols it needs are
looked up in that wheel's library. Of Apple's own frameworks there are the declarations in apple/.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "metal_cpu" / "apple"
STUBS = Path(__file__).resolve().parent / "apple"
TARGET = "aarch64-macos.14.0"
PLATFORM = "macosx_14_0_arm64"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Namespaces whose symbols MLX's library has to have: its own, and those of metal-cpp.
THEIRS = ("3mlx4core", "N3MTL", "N2NS")


class NotAvailable(Exception):
    """The macOS wheel of MLX cannot be had here."""


def mlx_for_mac() -> Path:
    """The unpacked macOS wheel of the MLX version that is installed, from the package index."""
    version = importlib.metadata.version("mlx")
    folder = BUILD / f"mlx-metal-{version}"
    if not (folder / "mlx" / "lib" / "libmlx.dylib").is_file():
        wanted = ("--platform", PLATFORM, "--only-binary=:all:", "--no-deps", f"mlx-metal=={version}")
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(BUILD), *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotAvailable(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip download failed")
        [wheel] = BUILD.glob(f"mlx_metal-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    return folder / "mlx"


def compile_for_mac(source: Path, mlx: Path, flags: Sequence[str] = ()) -> Path:
    """The object file of one source. Raises RuntimeError with the compiler's messages."""
    name = source.relative_to(ROOT).as_posix() if source.is_relative_to(ROOT) else source.name
    out = BUILD / "objects" / (name.replace("/", ".") + ".o")
    out.parent.mkdir(parents=True, exist_ok=True)
    system = [mlx / "include", mlx / "include" / "metal_cpp", STUBS, Path(nanobind.include_dir())]
    system.append(Path(sysconfig.get_path("include")))
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'metal'}", *(f"-isystem{path}" for path in system)]
    defines = ["-D_METAL_", "-DGHOST_METAL", '-DGHOST_VERSION="0"', '-DGHOST_MLX_VERSION="0"', "-DNB_DOMAIN=mlx"]
    command = [sys.executable, "-m", "ziglang", "c++", "-target", TARGET, "-std=c++20", "-O1", "-c", str(source)]
    done = subprocess.run([*command, *includes, *defines, *flags, "-o", str(out)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} does not compile for {TARGET}:\n{done.stderr[-6000:]}")
    return out


def compile_project(mlx: Path) -> list[Path]:
    """Object files of all sources of the extension module."""
    sources = sorted((ROOT / "csrc").glob("**/*.cpp"))
    kernels = ("-DGHOST_ISA=neon", "-DGHOST_ISA_neon=1")

    def compile_one(source: Path) -> Path:
        extra = kernels if source.name.endswith("_simd.cpp") else ()
        return compile_for_mac(source, mlx, (*WARNINGS, *extra))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def missing_symbols(objects: Iterable[Path], mlx: Path) -> list[str]:
    """Symbols of MLX that the objects need and its macOS library does not export, as the linker spells them."""
    import lief

    library = lief.MachO.parse(str(mlx / "lib" / "libmlx.dylib"))
    assert library is not None
    exported = {symbol.name for symbol in library.at(0).exported_symbols}
    needed: set[str] = set()
    defined: set[str] = set()
    type_mask = 0x0E  # of nlist: zero means undefined
    for path in objects:
        parsed = lief.MachO.parse(str(path))
        assert parsed is not None
        for symbol in parsed.at(0).symbols:
            (defined if symbol.raw_type & type_mask else needed).add(str(symbol.name))
    return sorted(name for name in needed - defined - exported if any(part in name for part in THEIRS))

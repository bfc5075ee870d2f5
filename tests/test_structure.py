"""The shape of the tree: which package may import which, and that every operator has its whole family of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ghost_native import ops

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "ghost_native"

# A package may import those before it in this order, and itself.
ORDER = ["_native", "reference", "ops", "nn", "models", "data", "generate", "train", "cli"]
OPERATORS = sorted(p.name for p in (ROOT / "csrc").iterdir() if p.is_dir() and p.name != "common")

# Where MLX has a fast GPU kernel already.
WITHOUT_METAL = {
    "adamw",
    "cross_entropy",
    "decode_step",
    "dense_matmul",
    "embedding",
    "fact_memory",
    "fact_recurrence",
    "gelu",
    "rms_norm",
    "silu",
    "sparse_attention",
    "tanh",
}


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("ghost_native.")}
    return found


@pytest.mark.parametrize("package", ORDER[1:])
def test_imports_point_one_way(package):
    allowed = {*ORDER[: ORDER.index(package) + 1], "_ext", "__version__"}
    for path in (PACKAGE / package).rglob("*.py"):
        assert imported_packages(path) <= allowed, path


def test_every_package_has_its_place():
    packages = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages == set(ORDER) - {"_native"}


def test_references_never_import_mlx():
    for path in (PACKAGE / "reference").glob("*.py"):
        text = path.read_text()
        assert "import mlx" not in text and "from mlx" not in text, path


@pytest.mark.parametrize("op", OPERATORS)
def test_operator_family_is_complete(op):
    for suffix in (".h", ".cpp", "_cpu.cpp", "_bindings.cpp"):
        assert (ROOT / "csrc" / op / f"{op}{suffix}").is_file(), suffix
    # The dense product runs on the packed engine that the 2-bit one shares.
    kernels = "common/gemm_simd.cpp" if op == "dense_matmul" else f"{op}/{op}_simd.cpp"
    assert (ROOT / "csrc" / kernels).is_file()
    assert (ROOT / "csrc" / op / "README.md").is_file()
    for folder in ("ops", "reference"):
        assert (PACKAGE / folder / f"{op}.py").is_file(), folder
    assert list((ROOT / "tests" / "ops").glob(f"test_{op}*.py"))


@pytest.mark.parametrize("op", sorted(set(OPERATORS) - WITHOUT_METAL))
def test_metal_family_is_complete(op):
    assert list((ROOT / "metal" / op).glob("*.metal"))
    for path in (f"csrc/{op}/{op}_metal.cpp", f"metal/{op}/params.h"):
        assert (ROOT / path).is_file(), path
    assert (ROOT / "tests" / "metal_cpu" / "budgets" / f"{op}.py").is_file()
    assert "On Metal" in (ROOT / "csrc" / op / "README.md").read_text()


def test_metal_sources_are_templates_in_headers_and_instantiations():
    for path in (ROOT / "metal").glob("*/*.metal"):
        text = path.read_text(encoding="ascii")
        assert "GHOST_KERNEL" in text and "[[kernel]]" not in text.replace("GHOST_KERNEL", ""), path
    for path in (ROOT / "metal").glob("*/*.h"):
        assert "#pragma once" in path.read_text(encoding="ascii"), path


def test_every_public_operator_is_documented():
    for name in ops.__all__:
        text = getattr(ops, name).__doc__ or ""
        assert len(text) > 80, f"{name} has no docstring to speak of"


def test_import_changes_nothing_in_the_process():
    """Importing the library loads no BLAS of its own and touches no device."""
    code = (
        "import mlx.core as mx; before = mx.default_device(); import ghost_native; "
        "assert mx.default_device() == before; "
        "maps = open('/proc/self/maps').read() if __import__('sys').platform == 'linux' else ''; "
        "assert 'libopenblas' not in maps"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

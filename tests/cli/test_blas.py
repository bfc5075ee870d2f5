"""The BLAS that commands run on: found, refused, and the process started anew with it exactly once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghost_native.cli import blas


class Started(Exception):
    """Stands for the process being replaced."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_prepared", None)
    for name in (blas.VARIABLE, "LD_PRELOAD", "GHOST_NATIVE_PRELOAD_BEFORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "unchanged")


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloading a BLAS is for Linux only")


@linux
def test_none_leaves_mlx_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blas.VARIABLE, "none")
    assert blas.prepare().line() == "BLAS: MLX's own; GHOST_NATIVE_BLAS=none"


@linux
def test_programs_that_call_main_are_never_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started anew"))
    assert blas.prepare().name == "MLX's own"
    assert blas.prepare() is blas.prepare()


@linux
@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("/nowhere/libblas.so", "names '/nowhere/libblas.so', which does not load"),
        ("libm.so.6", "names 'libm.so.6', which has no cblas_sgemm; use none or the path of a BLAS"),
    ],
)
def test_wrong_libraries(monkeypatch: pytest.MonkeyPatch, library: str, message: str) -> None:
    monkeypatch.setattr(blas, "_is_command", lambda: True)
    monkeypatch.setenv(blas.VARIABLE, library)
    with pytest.raises(ValueError, match=message):
        blas.prepare()


@linux
def test_without_the_library_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_is_command", lambda: True)
    monkeypatch.setattr(blas, "CANDIDATES", ("libnosuchblas.so.0",))
    assert "apt install libopenblas0-pthread" in blas.prepare().line()


@linux
def test_the_process_starts_anew_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def execve(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        calls.append((arguments, environment))
        raise Started

    monkeypatch.setattr(blas, "_is_command", lambda: True)
    monkeypatch.setattr(blas, "_find", lambda wanted: "/lib/fast.so")
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ghost_native", "info"])
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    with pytest.raises(Started):
        blas.prepare()
    ((arguments, environment),) = calls
    assert arguments == [sys.executable, "-m", "ghost_native", "info"]
    assert environment["LD_PRELOAD"] == "/lib/fast.so:/lib/other.so"
    assert environment["OPENBLAS_CORETYPE"] == "unchanged"


@linux
@pytest.mark.parametrize("before", ["", "/lib/other.so"])
def test_the_second_process_uses_it_and_cleans_up(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Any library stands in for the preloaded one."""
    monkeypatch.setenv("LD_PRELOAD", "libm.so.6:" + before)
    monkeypatch.setenv("GHOST_NATIVE_PRELOAD_BEFORE", before)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started twice"))
    assert blas.prepare() == blas.Blas("preloaded", "libm.so.6")
    assert os.environ.get("LD_PRELOAD", "") == before and "GHOST_NATIVE_PRELOAD_BEFORE" not in os.environ


@linux
def test_core_type_is_set_only_when_the_user_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "processor : 0\nflags\t\t: fpu avx512f avx512cd avx512bw avx512dq avx512vl\n"
    monkeypatch.setattr(Path, "read_text", lambda self: flags)
    blas._set_core_type()
    assert os.environ["OPENBLAS_CORETYPE"] == "unchanged"
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    blas._set_core_type()
    assert os.environ["OPENBLAS_CORETYPE"] == "SkylakeX"
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    monkeypatch.setattr(Path, "read_text", lambda self: flags.replace("avx512vl", ""))
    blas._set_core_type()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_mac_has_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.prepare().line() == "BLAS: Accelerate"


def test_the_command_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, expected in (
        ("/usr/bin/ghost-native", True),
        ("/lib/ghost_native/__main__.py", True),
        ("/lib/pytest/__main__.py", False),
        ("", False),
    ):
        monkeypatch.setattr(sys, "argv", [program])
        assert blas._is_command() is expected


@linux
def test_a_real_system_library_is_used_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    path = blas._find("")
    if path is None:
        pytest.skip("this system has no OpenBLAS to preload")
    done = subprocess.run(
        [sys.executable, "-m", "ghost_native", "info"], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"({path})" in done.stdout


def test_what_runs_here_is_told_without_loading_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.running().line() == "BLAS: Accelerate"
    monkeypatch.setattr(sys, "platform", "other")
    assert blas.running().line() == "BLAS: MLX's own"


def test_programs_started_from_here_get_the_same_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "LD_PRELOAD" not in blas.environment(blas.Blas("MLX's own"))
    assert blas.environment(blas.Blas("OpenBLAS", "/lib/fast.so"))["LD_PRELOAD"] == "/lib/fast.so"
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    assert blas.environment(blas.Blas("OpenBLAS", "/lib/fast.so"))["LD_PRELOAD"] == "/lib/fast.so:/lib/other.so"


@linux
def test_a_preloaded_library_is_named() -> None:
    path = blas._find("")
    if path is None:
        pytest.skip("this system has no OpenBLAS to preload")
    code = "import mlx.core; from ghost_native.cli import blas; print(blas.running().path)"
    environment = blas.environment(blas.Blas("OpenBLAS", path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == path

"""Compiles .metal files for the CPU, and keeps what it compiled in build/metal_cpu.

A clang is needed: one on the PATH, or the one of the PyPI package ``ziglang``. ``METAL_CPU_CXX`` forces a command.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.metal_cpu.operations import block_table
from tests.metal_cpu.translate import TranslationError, translate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / "build" / "metal_cpu"

FLAVOURS = {
    # For results: as fast as it gets.
    "fast": ["-O2", "-DMSL_FAST", "-fomit-frame-pointer"],
    # For memory checks: a hook before every access. Vectorisation by the compiler would merge accesses of one thread.
    "traced": [
        *("-O1", "-DMSL_TRACED"),
        "-fno-vectorize",
        "-fno-slp-vectorize",
        "-fsanitize=kernel-address",
        *("-mllvm", "-asan-instrumentation-with-call-threshold=0"),
        *("-mllvm", "-asan-stack=0"),
        *("-mllvm", "-asan-globals=0"),
        *("-mllvm", "-asan-kernel-mem-intrinsic-prefix=1"),
        *("-mllvm", "-asan-memory-access-callback-prefix=__msl_"),
    ],
    # For operation counts: a hook at the start of every block of code.
    "counted": [
        *("-O1", "-DMSL_COUNTED", "-fno-vectorize", "-fno-slp-vectorize"),
        "-fsanitize-coverage=bb,no-prune,trace-pc-guard",
    ],
    # For address spaces: distinct types, nothing to run.
    "strict": ["-O0", "-DMSL_STRICT", "-ferror-limit=0", "-fno-caret-diagnostics"],
}

COMMON = [
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing"),
    *("-fno-math-errno", "-gline-tables-only", "-pthread"),
    # Every operation rounds to its type by itself, as on the GPU; fused only where the source says fma.
    "-ffp-contract=off",
    *("-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"),
    # Metal has no double: literals are float.
    *("-Xclang", "-cl-single-precision-constant"),
]
KERNEL_WARNINGS = [
    *("-Wno-unknown-attributes", "-Wno-ignored-attributes", "-Wno-duplicate-decl-specifier", "-Wno-unused"),
    *("-Wno-undefined-inline", "-Wno-unknown-pragmas", "-Wno-psabi", "-Wno-pass-failed"),
]
# Stacks of GPU threads have 64 KiB.
STACK_LIMIT = ["-Wframe-larger-than=32768", "-Werror=frame-larger-than"]
PREPROCESS = [
    *("-E", "-x", "c++", "-std=c++20", "-nostdinc", "-nostdinc++", "-undef"),
    *("-D__METAL__=1", "-D__METAL_VERSION__=310", "-D__HAVE_BFLOAT__=1"),
]

PROBE = """
typedef float float4 __attribute__((ext_vector_type(4)));
_Float16 half_sum(_Float16 a, _Float16 b) { return a + b; }
__bf16 bfloat_sum(__bf16 a, __bf16 b) { return a + b; }
float4 swizzle(float4 v) { return v.wzyx; }
"""


class CompileError(Exception):
    """A Metal source does not compile; the message is the compiler's."""


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _native_flag() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _understands(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(PROBE)
        try:
            _run([*command, "-c", *COMMON, source, "-o", Path(folder) / "probe.o"])
        except (CompileError, OSError):
            return False
    return True


@functools.cache
def compiler() -> tuple[str, ...]:
    """The command of a clang that has the types of Metal."""
    forced = os.environ.get("METAL_CPU_CXX")
    if forced:
        return tuple(shlex.split(forced))
    candidates = [[name] for name in ("clang++", *(f"clang++-{v}" for v in range(23, 16, -1))) if shutil.which(name)]
    if not candidates or not any(_understands(c) for c in candidates):
        candidates = [[sys.executable, "-m", "ziglang", "c++"]]
    for candidate in candidates:
        if _understands(candidate):
            return tuple(candidate)
    raise CompileError("no clang to compile Metal kernels with: pip install ziglang, or set METAL_CPU_CXX")


@functools.cache
def _version() -> str:
    return _run([*compiler(), "--version"]) + platform.machine() + _cpu_model()


def _cpu_model() -> str:
    """Compiled for this processor: on another one it is compiled again."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "".join(re.findall(r"^(?:flags|Features|model name)\s*:.*$", info, re.MULTILINE)[:2])


@functools.cache
def _digest_of_own_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(
        [*HERE.glob("runtime/*"), *HERE.glob("shim/**/*"), HERE / "translate.py", HERE / "operations.py"]
    ):
        if path.is_file():
            digest.update(path.read_bytes())
    digest.update(repr((FLAVOURS, COMMON, KERNEL_WARNINGS)).encode())
    digest.update(_version().encode())
    return digest.hexdigest()


def _key(*parts: str) -> str:
    digest = hashlib.sha256(_digest_of_own_sources().encode())
    for part in parts:
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:20]


def _put(made: Path, place: Path) -> Path:
    """Moves a finished file to its place at once: several processes may make the same one."""
    made.replace(place)
    return place


def _runtime() -> Path:
    """The shared object with the machine, the same for all libraries."""
    place = CACHE / f"runtime-{_key('runtime')}.so"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            objects = []
            for source in sorted((HERE / "runtime").glob("*.cpp")):
                objects.append(Path(folder) / f"{source.stem}.o")
                _run(
                    [
                        *compiler(),
                        "-c",
                        "-O2",
                        "-fomit-frame-pointer",
                        *COMMON,
                        _native_flag(),
                        source,
                        "-o",
                        objects[-1],
                    ]
                )
            made = Path(folder) / place.name
            _run([*compiler(), "-shared", "-pthread", *objects, "-o", made])
            _put(made, place)
    return place


def preprocess(path: Path, defines: Sequence[str] = (), include: Sequence[Path] = ()) -> str:
    """The source with our macros and includes resolved and Metal's words untouched."""
    folders = [HERE / "shim" / "include", *include, path.parent]
    command = [*compiler(), *PREPROCESS, *(f"-I{f}" for f in folders), *(f"-D{d}" for d in defines), path]
    try:
        return _run(command)
    except CompileError as error:
        raise CompileError(f"{path.name} cannot be preprocessed:\n{error}") from None


def _assemble(path: Path, text: str) -> str:
    return f'#include "{HERE / "shim" / "metal.h"}"\n#line 1 "{path}"\n{text}'


def compile_metal(
    path: str | Path, flavour: str = "fast", defines: Sequence[str] = (), include: Sequence[Path] = ()
) -> Path:
    """The shared object of a .metal file in one of FLAVOURS, compiled when its text has changed.

    Raises CompileError with the compiler's messages, which name lines of the Metal source. ``strict`` gives an empty
    file: it checks types only.
    """
    path = Path(path).resolve()
    CACHE.mkdir(parents=True, exist_ok=True)
    text = preprocess(path, defines, [Path(i).resolve() for i in include])
    place = CACHE / f"{path.stem}-{flavour}-{_key(flavour, str(path), text)}.so"
    if place.exists():
        return place
    try:
        translation = translate(text)
    except TranslationError as error:
        raise CompileError(f"{path.name}: {error}") from None
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        source = Path(folder) / f"{path.stem}.cpp"
        source.write_text(_assemble(path, translation.text))
        made = Path(folder) / place.name
        flags = [
            *COMMON,
            *FLAVOURS[flavour],
            *KERNEL_WARNINGS,
            *(STACK_LIMIT if flavour != "strict" else []),
            _native_flag(),
        ]
        try:
            if flavour == "strict":
                _check_types([*compiler(), "-c", *flags, source, "-o", source.with_suffix(".o")])
                made.touch()
            else:
                _build(source, made, flags, counted=flavour == "counted")
        except CompileError as error:
            raise CompileError(f"{path.name} does not compile ({flavour}):\n{error}") from None
        return _put(made, place)


def _check_types(command: Sequence[str | Path]) -> None:
    """Runs the compiler; errors that Metal does not know are no errors.

    C++ copies structures through members that expect the generic address space. Metal copies them from and to any.
    """
    try:
        _run(command)
    except CompileError as failed:
        blocks = re.split(r"^(?=[^\n]*: (?:fatal )?error: )", str(failed), flags=re.MULTILINE)[1:]
        real = [b for b in blocks if "error: " in b and not _is_copy_of_structure(b)]
        if real or not blocks:
            raise CompileError("".join(real) or str(failed)) from None


def _is_copy_of_structure(block: str) -> bool:
    notes = re.findall(r"note: candidate (?:function|constructor) .*", block)
    return bool(notes) and all(re.search(r"\(the implicit (?:copy|move) ", note) for note in notes)


def _build(source: Path, made: Path, flags: list[str], counted: bool) -> None:
    built = source.with_suffix(".o")
    _run([*compiler(), "-c", *flags, source, "-o", built])
    objects = [built]
    if counted:
        code = source.with_suffix(".ll")
        _run([*compiler(), "-S", "-emit-llvm", *flags, source, "-o", code])
        table = source.with_name("block_table.cpp")
        table.write_text(block_table(code.read_text()))
        objects.append(table.with_suffix(".o"))
        _run([*compiler(), "-c", *COMMON, table, "-o", objects[-1]])
    # Kernels use nothing of the C++ library at run time, and linking it takes seconds.
    _run([*compiler(), "-shared", "-nostdlib++", *objects, _runtime(), "-o", made])

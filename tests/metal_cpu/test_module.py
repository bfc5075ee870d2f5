"""The host side of the Metal kernels: what is embedded, launched and reported, and what happens when it fails."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from tests.metal_cpu import module
from tests.metal_cpu.compiler import compile_metal
from tests.metal_cpu.library import Library
from tests.tolerances import assert_close

ROOT = Path(__file__).resolve().parent.parent.parent


def embedder():
    spec = importlib.util.spec_from_file_location("embed_metal", ROOT / "cmake" / "embed_metal.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def operands() -> tuple[mx.array, mx.array]:
    mx.random.seed(0)
    return mx.random.normal((3, 50, 33)), mx.random.normal((33, 4))


@pytest.mark.parametrize("path", module.LIBRARIES, ids=lambda p: p.stem)
def test_the_module_holds_every_source_whole(path):
    embedded = module.module().emulator.source(path.stem)
    assert embedded == embedder().source(path, ROOT / "metal")
    assert '#include "' not in embedded and "#pragma once" not in embedded
    assert embedded.isascii() and f'#line 1 "metal/{path.parent.name}/{path.name}"' in embedded


@pytest.mark.parametrize("path", module.LIBRARIES, ids=lambda p: p.stem)
def test_the_embedded_source_compiles_to_the_same_kernels(path, tmp_path):
    """What a Mac compiles at first use is the one text, without any file beside it."""
    alone = tmp_path / path.name
    alone.write_text(module.module().emulator.source(path.stem))
    built = [Library(compile_metal(p, "fast", include=i)) for p, i in ((alone, []), (path, [ROOT / "metal"]))]
    assert sorted(built[0].kernels()) == sorted(built[1].kernels()) != []


def test_a_missing_include_stops_the_build(tmp_path):
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "op.metal").write_text('#include "op/none.h"\n')
    done = subprocess.run(
        [sys.executable, ROOT / "cmake" / "embed_metal.py", tmp_path, tmp_path / "out.cpp"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and 'op/op.metal:1: no such file: "op/none.h"' in done.stderr


def test_a_missing_library_is_named():
    with pytest.raises(RuntimeError, match=r"there is no Metal library causal_conv9d"):
        module.module().emulator.source("causal_conv9d")


def test_launches_carry_the_grid_of_the_host():
    x, w = operands()
    with module.recorded_launches("fast") as launches:
        mx.eval(gn.causal_conv1d(x, w))
    [launch] = launches
    assert launch.kernel == "causal_conv1d_fwd_float32" and launch.library.endswith("_causal_conv1d")
    assert all(n >= 1 for n in (*launch.groups, *launch.threads))


def test_a_kernel_that_cannot_be_used_is_named_with_the_way_around(monkeypatch):
    x, w = operands()
    with module.load() as built:
        wrong = next(p for p in module.LIBRARIES if p.stem == "skip_gather")
        right = next(p for p in module.LIBRARIES if p.stem == "causal_conv1d")
        shared_objects = [str(compile_metal(p, "fast", include=[ROOT / "metal"])) for p in (wrong, right)]
        built.emulator.use_library("causal_conv1d", shared_objects[0])
        try:
            with pytest.raises(RuntimeError) as error:
                mx.eval(gn.causal_conv1d(x, w))
            message = str(error.value)
            assert "[ghost_native] the Metal kernel causal_conv1d_fwd_float32 cannot be used here" in message
            assert "GHOST_NATIVE_METAL=0" in message
            monkeypatch.setenv("GHOST_NATIVE_METAL", "0")
            assert not gn.metal_available()
            composed = gn.causal_conv1d(x, w)
            mx.eval(composed)
        finally:
            built.emulator.use_library("causal_conv1d", shared_objects[1])
    monkeypatch.delenv("GHOST_NATIVE_METAL")
    assert_close(composed, gn.causal_conv1d(x, w))


UNWRITTEN = """
import sys
from pathlib import Path

import mlx.core as mx

mx.set_default_device(mx.cpu)
import ghost_native as gn
from tests.metal_cpu import module
from tests.metal_cpu.compiler import compile_metal

metal = Path(sys.argv[1])
path = metal / "skip_gather" / "skip_gather.h"
text = path.read_text()
clears = "if (int(at.x) < p.rows) inverse"
assert text.count(clears) == 1
path.write_text(text.replace(clears, "if (int(at.x) < p.rows && at.x % 2u == 0u) inverse"))
with module.load() as built:
    wrong = compile_metal(metal / "skip_gather" / "skip_gather.metal", "fast", include=[metal])
    built.emulator.use_library("skip_gather", str(wrong))
    x = mx.ones((50, 8))
    plan = gn.routing_plan(mx.arange(50) < 3)
    print(bool(mx.array_equal(gn.skip_scatter(x, mx.zeros((3, 8)), plan)[3:], x[3:])))
"""


AHEAD_OF_TIME = """
import importlib.util
import sys

import mlx.core as mx

mx.set_default_device(mx.cpu)
from tests.metal_cpu import module

spec = importlib.util.spec_from_file_location("_ext_metal_cpu", sys.argv[1])
built = importlib.util.module_from_spec(spec)
spec.loader.exec_module(built)
for path, compiled in zip(module.LIBRARIES, module.compile_all(module.LIBRARIES, "fast", [module.ROOT / "metal"])):
    built.emulator.use_library(path.stem, str(compiled))
built.emulator.record(True)
mx.eval(built.causal_conv1d(mx.ones((1, 40, 8)), mx.ones((8, 4))))
built.emulator.record(False)
[(library, kernel, *_)] = built.emulator.take_launches()
print(library, kernel)
"""


def test_scratch_that_nobody_wrote_spoils_the_result(tmp_path):
    """Integers too: the memory of a launch begins as a number that no kernel writes."""
    shutil.copytree(ROOT / "metal", tmp_path / "metal")
    command = [sys.executable, "-c", UNWRITTEN, str(tmp_path / "metal")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False"], done.stderr


def test_a_library_compiled_ahead_of_time_is_used(tmp_path):
    """One file beside the module with all kernels, named with the version."""
    built = shutil.copy(module.module().__file__, tmp_path)
    name = f"ghost_native_{gn.__version__}"
    (tmp_path / f"{name}.metallib").touch()
    command = [sys.executable, "-c", AHEAD_OF_TIME, built]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [name, "causal_conv1d_fwd_float32"], done.stderr


def test_kernel_names_are_unique_in_one_library():
    built = [Library(compile_metal(p, "fast", include=[ROOT / "metal"])) for p in module.LIBRARIES]
    names = [name for library in built for name in library.kernels()]
    assert len(names) == len(set(names)) > 80


def test_the_switch_takes_no_other_value(monkeypatch):
    monkeypatch.setenv("GHOST_NATIVE_METAL", "maybe")
    with (
        module.load(),
        pytest.raises(ValueError, match=r"\[GHOST_NATIVE_METAL\] unknown value, given 'maybe', allowed: 0"),
    ):
        gn.metal_available()


def test_composed_form_launches_nothing():
    x, w = operands()
    with module.recorded_launches("fast") as launches, gn.composed_form():
        mx.eval(gn.causal_conv1d(x, w))
    assert launches == []


def test_compiled_functions_and_other_streams():
    x, w = operands()
    expected = gn.causal_conv1d(x * 2, w)
    mx.eval(expected)
    stream = mx.new_stream(mx.cpu)
    with module.load():
        compiled = mx.compile(lambda x: gn.causal_conv1d(x * 2, w))
        assert_close(compiled(x), expected)
        assert_close(compiled(x), expected)
        with mx.stream(stream):
            assert_close(gn.causal_conv1d(x * 2, w, stream=stream), expected)


def test_several_threads_launch_at_once():
    x, w = operands()
    expected = np.array(gn.causal_conv1d(x, w))
    close: list[bool] = []
    with module.load():

        def work() -> None:
            stream = mx.new_stream(mx.cpu)
            with mx.stream(stream):
                results = [np.array(gn.causal_conv1d(x, w, stream=stream)) for _ in range(5)]
            close.extend(np.allclose(result, expected, atol=1e-5) for result in results)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert close == [True] * 15


SWAPPED = """
import sys
from pathlib import Path

import mlx.core as mx

mx.set_default_device(mx.cpu)
import ghost_native as gn
from tests.metal_cpu import module
from tests.metal_cpu.compiler import compile_metal
from tests.metal_cpu.library import Library

metal = Path(sys.argv[1])
path = metal / "causal_conv1d" / "forward.h"
text = path.read_text()
for name, index, other in (("device T* y", 5, 0), ("const device T* x", 0, 5)):
    assert f"{name} [[buffer({index})]]" in text
    text = text.replace(f"{name} [[buffer({index})]]", f"{name} [[buffer({other})]]")
path.write_text(text)
with module.load() as built:
    swapped = compile_metal(metal / "causal_conv1d" / "causal_conv1d.metal", "fast", include=[metal])
    built.emulator.use_library("causal_conv1d", str(swapped))
    mx.eval(gn.causal_conv1d(mx.ones((1, 40, 8)), mx.ones((8, 4))))
"""


def test_a_kernel_that_writes_to_an_input_is_caught(tmp_path):
    """Two swapped buffer indices end the process with the kernel's name: nothing could catch an exception there."""
    shutil.copytree(ROOT / "metal", tmp_path / "metal")
    command = [sys.executable, "-c", SWAPPED, str(tmp_path / "metal")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode < 0, done.stderr
    assert "causal_conv1d_fwd_float32 wrote to buffer 0, which is an input" in done.stderr

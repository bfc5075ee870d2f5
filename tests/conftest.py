"""Fixtures for all tests. Nothing here needs a GPU: the default device is the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, settings

import ghost_native as gn
from ghost_native import _ext
from tests.metal_cpu.module import on_metal

settings.register_profile("ghost", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("ghost")


@pytest.fixture(autouse=True)
def cpu_device() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@pytest.fixture(params=_ext.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set this CPU has."""
    before = _ext.isa()
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa(before)


@pytest.fixture(params=["cpu", "metal", "composed"])
def impl(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on our CPU kernels, on our Metal kernels, and on the form composed of MLX operations.

    The Metal kernels run on the GPU where there is one and are emulated on the CPU elsewhere.
    """
    with ExitStack() as stack:
        if request.param == "composed":
            stack.enter_context(gn.composed_form())
        elif request.param == "metal":
            stack.enter_context(on_metal())
        yield request.param

"""The macOS build, checked without a Mac: it type-checks, and MLX has every symbol it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.metal_cpu import apple_build


@pytest.fixture(scope="module")
def mlx() -> Path:
    try:
        return apple_build.mlx_for_mac()
    except apple_build.NotAvailable as error:
        pytest.skip(f"the macOS wheel of mlx cannot be downloaded here: {error}")


def test_the_project_compiles_for_macos_and_mlx_exports_what_it_needs(mlx):
    objects = apple_build.compile_project(mlx)
    assert apple_build.missing_symbols(objects, mlx) == []


def test_a_function_that_mlx_keeps_to_itself_is_found(mlx, tmp_path):
    """MLX declares copy_gpu in a header it ships and does not export it: the kind of error that shows on import."""
    source = tmp_path / "planted.cpp"
    source.write_text(
        '#include "mlx/backend/gpu/copy.h"\n'
        "void planted(const mlx::core::array& a, mlx::core::array& b, const mlx::core::Stream& s) {\n"
        "  mlx::core::copy_gpu(a, b, mlx::core::CopyType::General, s);\n}\n"
    )
    [name] = apple_build.missing_symbols([apple_build.compile_for_mac(source, mlx)], mlx)
    assert "copy_gpu" in name


def test_a_call_that_the_macos_headers_do_not_have_is_found(mlx, tmp_path):
    source = tmp_path / "planted.cpp"
    source.write_text(
        '#include "common/metal_kernel.h"\n'
        "void planted(mlx::core::metal::CommandEncoder& encoder, mlx::core::array& x) {\n"
        "  encoder.set_output_array(x);\n}\n"
    )
    with pytest.raises(RuntimeError, match="too few arguments"):
        apple_build.compile_for_mac(source, mlx)

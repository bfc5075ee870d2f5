"""What the translation rewrites, and what it refuses in words instead of running something else."""

from __future__ import annotations

import pytest

from tests.metal_cpu.translate import TranslationError, split_commas, translate

KERNEL = "kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ {body} }}"


def test_brackets_and_commas():
    assert split_commas("a<b, c> x, f(1, 2), y[3]") == ["a<b, c> x", " f(1, 2)", " y[3]"]
    assert split_commas(" ") == []


def test_instantiations():
    source = """template <typename T> [[kernel]] void g(device T* x [[buffer(2)]]) {}
template [[host_name("g_" "float")]] [[kernel]] decltype(g<float>) g<float>;
template [[host_name("g_half")]] [[kernel]]
void g<half>(device half*);"""
    translation = translate(source)
    assert translation.kernels == ["g_float", "g_half"]
    assert 'MSL_KERNEL(0, "g_float", &g<float>, ::msl::From<::msl::Source::buffer, 2>)' in translation.text
    # Lines stay where they are.
    assert translation.text.index("#line") > 0 and translation.text.split("\n#line")[0].count("\n") == 3


@pytest.mark.parametrize(
    ("declaration", "names"),
    [
        ("threadgroup float a[N * (2 + 1)];", ["a"]),
        ("threadgroup vec<float, 4> b[2][3];", ["b"]),
        ("threadgroup uint c;", ["c"]),
        ("threadgroup int d[4], e;", ["d", "e"]),
    ],
)
def test_threadgroup_variables(declaration, names):
    text = translate(KERNEL.format(body=declaration)).text
    for name in names:
        assert f"::msl::claim({name}_msl_variable, sizeof({name}_msl_type), alignof({name}_msl_type))" in text


def test_threadgroup_pointers_are_left_alone():
    body = "threadgroup float s[4]; threadgroup float* p = s;"
    assert "threadgroup float* p = s;" in translate(KERNEL.format(body=body)).text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "kernel void f(device float* x [[buffer(0)]], uint i) {}",
            "no attribute that is known on the parameter 'uint i'",
        ),
        ("kernel void f(threadgroup float* s [[threadgroup(0)]]) {}", "threadgroup memory as a parameter"),
        (
            "constant bool a [[function_constant(0)]];\nconstant bool b = !a;",
            "derived from the function constant a is not supported",
        ),
        ('template [[host_name("x")]] [[kernel]] decltype(h<int>) h<int>;', "instantiates h, which is no kernel"),
        (
            "template <class T> kernel void g(device T* x [[buffer(0)]]) {}\n"
            'template [[host_name("x")]] decltype(g<int>) g<int>;\n'
            'template [[host_name("x")]] decltype(g<uint>) g<uint>;',
            "two kernels are called x",
        ),
        (KERNEL.format(body="float fragment = x[i];"), "fragment is a keyword of Metal"),
    ],
)
def test_what_is_not_known_is_an_error(source, words):
    with pytest.raises(TranslationError, match=words):
        translate(source)

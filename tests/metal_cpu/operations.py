"""Operations of the blocks of code of a library, from the compiler's intermediate code (LLVM IR as text).

The ``counted`` flavour is compiled with one guard per basic block, which counts how often the block runs. What a block
consists of stands in the intermediate code, so that executions times contents are the operations of a launch.
"""

from __future__ import annotations

import re
from collections import Counter

from tests.metal_cpu.report import OPERATION_CLASSES

INSTRUCTIONS = {
    **dict.fromkeys(["fadd", "fsub", "fmul"], "float"),
    **dict.fromkeys(["fdiv", "frem"], "divide"),
    **dict.fromkeys(["add", "sub", "mul", "udiv", "sdiv", "urem", "srem"], "integer"),
    **dict.fromkeys(["shl", "lshr", "ashr", "and", "or", "xor"], "integer"),
    **dict.fromkeys(["icmp", "fcmp", "select"], "select"),
    **dict.fromkeys(["sitofp", "uitofp", "fptosi", "fptoui", "fptrunc", "fpext"], "convert"),
    "load": "load",
    "store": "store",
}
INTRINSICS = {
    **dict.fromkeys(["fma", "fmuladd"], "float"),
    "sqrt": "divide",
    **dict.fromkeys(["exp", "exp2", "exp10", "log", "log2", "log10", "pow", "sin", "cos", "tan"], "transcendental"),
    **dict.fromkeys(["asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"], "transcendental"),
    **dict.fromkeys(["ctpop", "ctlz", "cttz", "bitreverse", "bswap", "fshl", "fshr", "abs"], "integer"),
    **dict.fromkeys(["umin", "umax", "smin", "smax", "ucmp", "scmp"], "select"),
    **dict.fromkeys(["minnum", "maxnum", "minimum", "maximum", "copysign"], "select"),
    **dict.fromkeys(["floor", "ceil", "trunc", "rint", "round"], "convert"),
}
FUSED = {"fma", "fmuladd"}

GUARDS = re.compile(r"^@(?P<name>__sancov_gen_[\w.]*) = .*?\[(?P<size>\d+) x i32\].*section \"__sancov_guards\"")
GUARD_CALL = re.compile(r"@__sanitizer_cov_trace_pc_guard\(ptr .*?@(?P<name>__sancov_gen_[\w.]*)(?P<rest>.*)\)")
INSTRUCTION = re.compile(r"^\s+(?P<result>%\S+ = )?(?:tail |musttail |notail )?(?P<name>[a-z_]+)\b(?P<rest>.*)$")
CALLED = re.compile(r"@(?:llvm\.(?P<intrinsic>[a-z0-9_]+)|(?P<function>[a-z0-9]+))")
LANES = re.compile(r"<(\d+) x ")


def operations_of(line: str) -> tuple[str, int] | None:
    """Class and count of the operations of an instruction."""
    match = INSTRUCTION.match(line.split(", !", 1)[0])
    if not match:
        return None
    name, rest = match["name"], match["rest"]
    lanes = LANES.search(rest)
    width = int(lanes[1]) if lanes else 1
    if name == "call":
        called = CALLED.search(rest)
        if not called:
            return None
        function = called["intrinsic"] or called["function"].removesuffix("f")
        kind = INTRINSICS.get(function)
        return (kind, width * (2 if function in FUSED else 1)) if kind else None
    if name == "getelementptr":
        # Constant offsets are part of the access.
        return ("integer", 1) if re.search(r", i\d+ %", rest) else None
    if name in ("load", "store"):
        return INSTRUCTIONS[name], 1
    return (INSTRUCTIONS[name], width) if name in INSTRUCTIONS else None


def guard_number(call: re.Match[str], first: dict[str, int]) -> int:
    index = re.search(r"i64 0, i64 (\d+)\)", call["rest"])
    if index:
        return first[call["name"]] + int(index[1])
    offset = re.search(r"i64 (\d+)\)", call["rest"])
    return first[call["name"]] + (int(offset[1]) // 4 if offset else 0)


def blocks(code: str) -> list[Counter[str]]:
    """The operations of every block that has a guard, in the order of the guards in memory."""
    first, total = {}, 0
    for line in code.splitlines():
        if match := GUARDS.match(line):
            first[match["name"]] = total
            total += int(match["size"])
    table = [Counter[str]() for _ in range(total)]
    current: Counter[str] = Counter()
    for line in code.splitlines():
        if line.startswith("define ") or re.match(r"^[\w.$-]+:", line):
            current = Counter()
        elif call := GUARD_CALL.search(line):
            # Instructions before the guard, as those that join values, belong to the block too.
            number = guard_number(call, first)
            table[number] += current
            current = table[number]
        elif operations := operations_of(line):
            current[operations[0]] += operations[1]
    return table


def block_table(code: str) -> str:
    """C++ source of the table that runtime/counts.cpp multiplies with executions."""
    rows = [", ".join(str(min(block[kind], 0xFFFF)) for kind in OPERATION_CLASSES) for block in blocks(code)]
    rows = rows or [", ".join("0" for _ in OPERATION_CLASSES)]
    lines = ",\n".join(f"    {{{row}}}" for row in rows)
    return (
        "#include <cstdint>\n"
        f'extern "C" {{ extern const uint16_t msl_block_operations[][{len(OPERATION_CLASSES)}]; }}\n'
        f"const uint16_t msl_block_operations[][{len(OPERATION_CLASSES)}] = {{\n{lines}\n}};\n"
    )

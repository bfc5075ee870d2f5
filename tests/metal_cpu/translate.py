"""From preprocessed Metal source to C++ for the shim.

Metal is C++ but for a few constructs; those are rewritten as text, line by line where they stand, so that every
message of the compiler and every fault at run time names the line of the Metal source:

* ``template [[host_name("k")]] [[kernel]] decltype(f<T>) f<T>;``  becomes an entry of the table of kernels
* ``[[buffer(0)]]``, ``[[thread_position_in_grid]]``, ...           tell the launcher where each argument comes from
* ``threadgroup T x[N];`` in a function                             becomes memory that all threads of a group share
* ``constant bool x [[function_constant(7)]];``                     becomes a variable that launches set
* ``vec<T, 4>(a, b, c, d)``                                         is built element by element
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Attributes of kernel parameters that the launcher knows, and the member of msl::Source each stands for.
SOURCES = {
    "thread_position_in_grid": "thread_position_in_grid",
    "threadgroup_position_in_grid": "threadgroup_position_in_grid",
    "thread_position_in_threadgroup": "thread_position_in_threadgroup",
    "thread_index_in_threadgroup": "thread_index_in_threadgroup",
    "thread_index_in_simdgroup": "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup": "simdgroup_index_in_threadgroup",
    "threads_per_threadgroup": "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup": "threads_per_threadgroup",
    "threads_per_grid": "threads_per_grid",
    "threadgroups_per_grid": "threadgroups_per_grid",
    "simdgroups_per_threadgroup": "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup": "simdgroups_per_threadgroup",
    "threads_per_simdgroup": "threads_per_simdgroup",
    "quadgroup_index_in_threadgroup": "quadgroup_index_in_threadgroup",
    "thread_index_in_quadgroup": "thread_index_in_quadgroup",
}

HOST_NAME = re.compile(r"\btemplate\s*\[\[\s*host_name\s*\(((?:\s*\"[^\"]*\")+)\s*\)\s*\]\]")
KERNEL = re.compile(
    r"(?P<marks>(?:\[\[[^\[\]]*\]\]\s*)*)(?:\bkernel\b|(?P<attribute>\[\[\s*kernel\b[^\[\]]*\]\]))\s*"
    r"(?:\[\[[^\[\]]*\]\]\s*)*\bvoid\s+(?P<name>\w+)\s*\("
)
FUNCTION_CONSTANT = re.compile(
    r"\bconstant\s+(?P<type>[\w:]+)\s+(?P<name>\w+)\s*\[\[\s*function_constant\s*\(\s*(?P<index>\d+)\s*\)\s*\]\]\s*;"
)
ATTRIBUTE = re.compile(r"\[\[(?!\s*(?:clang::|maybe_unused|nodiscard|unlikely|likely|fallthrough))[^\[\]]*\]\]")
THREADGROUP_VARIABLE = re.compile(
    r"(?<![\w(,<*&])threadgroup\s+(?P<declaration>[^;{}=()\[\]]+(?:\[[^;\[\]]*\][^;{}=()\[\]]*)*);"
)
VECTOR_CAST = re.compile(r"(?<![\w:])(?:metal\s*::\s*)?vec\s*<")
# Keywords of Metal that kernels have no use for. Clang takes them as names.
KEYWORD = re.compile(r"\b(?:vertex|fragment|ray_data|object_data|threadgroup_imageblock)\b")
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


class TranslationError(Exception):
    """The source uses something that the emulator does not know."""


@dataclass(frozen=True)
class Translation:
    text: str
    kernels: list[str]


def matching(text: str, start: int) -> int:
    """The index of the bracket that closes the one at start."""
    opening, closing = text[start], BRACKETS[text[start]]
    depth = 0
    i = start
    while i < len(text):
        c = text[i]
        if c == '"':
            i = text.index('"', i + 1)
        elif c in "([" and opening == "<":
            i = matching(text, i)
        elif c == opening:
            depth += 1
        elif c == closing:
            depth -= 1
            if depth == 0:
                return i
        i += 1
    raise TranslationError(f"no {closing} for {opening} in: {text[start : start + 80]}")


def split_commas(text: str) -> list[str]:
    """The parts between commas that are in no brackets."""
    parts, start, i = [], 0, 0
    while i < len(text):
        if text[i] in "([{<":
            i = matching(text, i)
        elif text[i] == ",":
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [*parts, text[start:]] if text.strip() else []


def attributes_of(parameter: str) -> list[tuple[str, str]]:
    """Names and arguments of the attributes of a parameter."""
    found = []
    for attribute in re.findall(r"\[\[(.*?)\]\]", parameter, re.DOTALL):
        found += re.findall(r"(\w+)\s*(?:\(\s*([^()]*?)\s*\))?", attribute)
    return found


def source_of(kernel: str, parameter: str) -> str:
    """The msl::From of a kernel parameter."""
    for name, argument in attributes_of(parameter):
        if name == "buffer":
            return f"::msl::From<::msl::Source::buffer, {argument}>"
        if name in SOURCES:
            return f"::msl::From<::msl::Source::{SOURCES[name]}>"
        if name == "threadgroup":
            raise TranslationError(f"{kernel}: threadgroup memory as a parameter is not supported; declare it inside")
    raise TranslationError(f"{kernel}: no attribute that is known on the parameter '{' '.join(parameter.split())}'")


def find_kernels(text: str) -> dict[str, list[str]]:
    """The sources of the arguments of every kernel function or template, by its name."""
    kernels = {}
    for match in KERNEL.finditer(text):
        opening = match.end() - 1
        parameters = split_commas(text[opening + 1 : matching(text, opening)])
        kernels[match["name"]] = [source_of(match["name"], p) for p in parameters]
    return kernels


def plain_kernels(text: str) -> list[tuple[str, str]]:
    """Host name and expression of the kernels that are no templates."""
    found = []
    for match in KERNEL.finditer(text):
        before = text[: match.start()].rstrip()
        if before.endswith(">"):  # template <...>
            continue
        host_name = re.search(r"host_name\s*\(\s*\"([^\"]*)\"", match.group(0))
        found.append((host_name[1] if host_name else match["name"], match["name"]))
    return found


def instantiated(declaration: str) -> str:
    """The function that an explicit instantiation names: f<T> of "decltype(f<T>) f<T>" or "void f<T>(...)"."""
    text = re.sub(r"\bkernel\b", " ", ATTRIBUTE.sub(" ", declaration)).strip()
    if text.startswith("decltype"):
        opening = text.index("(")
        return " ".join(text[opening + 1 : matching(text, opening)].split())
    text = re.sub(r"^void\s+", "", text)
    return " ".join(text[: matching(text, text.index("<")) + 1].split())


def take_instantiations(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The text without instantiations that have a host name, and those as host name and expression."""
    found, out, end = [], [], 0
    for match in HOST_NAME.finditer(text):
        semicolon = text.index(";", match.end())
        name = "".join(re.findall(r'"([^"]*)"', match[1]))
        found.append((name, instantiated(text[match.end() : semicolon])))
        out += [text[end : match.start()], "\n" * text.count("\n", match.start(), semicolon)]
        end = semicolon + 1
    return "".join([*out, text[end:]]), found


def rewrite_function_constants(text: str) -> str:
    names = [m["name"] for m in FUNCTION_CONSTANT.finditer(text)]
    for name in names:
        derived = re.search(rf"^\s*constant\b[^;={{}}()]*=[^;]*\b{name}\b[^;]*;", text, re.MULTILINE)
        if derived:
            raise TranslationError(
                f"a constant derived from the function constant {name} is not supported; use a function instead: "
                + " ".join(derived.group(0).split())
            )

    def variable(match: re.Match[str]) -> str:
        kind, name, index = match["type"], match["name"], match["index"]
        return (
            f"static {kind} {name}; static bool {name}_msl_defined; "
            f"static ::msl::AddConstant {name}_msl_constant({index}, {name}, {name}_msl_defined);"
        )

    return FUNCTION_CONSTANT.sub(variable, text)


def rewrite_threadgroup_variables(text: str) -> str:
    def variables(match: re.Match[str]) -> str:
        declaration = match["declaration"]
        # Dimensions may hold any expression; outside of them these make it a parameter or a pointer.
        if any(c in re.sub(r"\[[^\]]*\]", "", declaration) for c in "*&"):
            return match.group(0)
        first, *others = split_commas(declaration)
        parsed = re.match(r"^(.*?)\s*\b(\w+)\s*((?:\[[^\]]*\]\s*)*)$", first, re.DOTALL)
        if not parsed or not parsed[1].strip():
            return match.group(0)
        kind = parsed[1].strip()
        names = [(parsed[2], parsed[3])]
        for other in others:
            more = re.match(r"^\s*(\w+)\s*((?:\[[^\]]*\]\s*)*)$", other, re.DOTALL)
            if not more:
                return match.group(0)
            names.append((more[1], more[2]))
        return " ".join(
            f"typedef threadgroup {kind} {name}_msl_type{dims.strip()}; "
            f"static ::msl::ThreadgroupVariable {name}_msl_variable; "
            f"{name}_msl_type& {name} = *({name}_msl_type*)::msl::claim({name}_msl_variable, "
            f"sizeof({name}_msl_type), alignof({name}_msl_type));"
            for name, dims in names
        )

    text = THREADGROUP_VARIABLE.sub(variables, text)
    left = re.search(r"^\s*threadgroup\s+(?:metal::)?[\w:<>, ]+?\s+\w+\s*(?:\[[^;]*)?;", text, re.MULTILINE)
    if left:  # would silently be private to each thread
        raise TranslationError(f"a threadgroup variable in a form that is not known: {left.group(0).strip()}")
    return text


def rewrite_vector_casts(text: str) -> str:
    out, end = [], 0
    for match in VECTOR_CAST.finditer(text):
        closing = matching(text, match.end() - 1)
        if match.start() < end or text[closing + 1 : closing + 2] != "(":
            continue
        out += [text[end : match.start()], f"::msl::make<{text[match.start() : closing + 1]}>"]
        end = closing + 1
    return "".join([*out, text[end:]])


def translate(text: str) -> Translation:
    """C++ of a preprocessed Metal source."""
    keyword = KEYWORD.search(text)
    if keyword:
        line = text[text.rfind("\n", 0, keyword.start()) + 1 :].split("\n", 1)[0]
        raise TranslationError(f"{keyword[0]} is a keyword of Metal, which no kernel needs: {line.strip()}")
    text, instances = take_instantiations(text)
    sources = find_kernels(text)
    instances = plain_kernels(text) + instances
    text = rewrite_function_constants(text)
    text = ATTRIBUTE.sub(" ", text)
    text = rewrite_threadgroup_variables(text)
    text = rewrite_vector_casts(text)

    table = ['\n#line 1 "table of kernels"\n']
    seen: set[str] = set()
    for i, (name, expression) in enumerate(instances):
        function = re.split(r"[<\s]", expression, maxsplit=1)[0].split("::")[-1]
        if function not in sources:
            raise TranslationError(f'host_name("{name}") instantiates {function}, which is no kernel')
        if name in seen:
            raise TranslationError(f"two kernels are called {name}")
        seen.add(name)
        table.append(f'MSL_KERNEL({i}, "{name}", {", ".join(["&" + expression, *sources[function]])})\n')
    return Translation(text + "".join(table), sorted(seen))

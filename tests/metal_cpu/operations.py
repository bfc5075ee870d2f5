"""Operations of the basic blocks of a library, from the compiler's intermediate code (LLVM IR as text)."""

from __future__ import annotations


def block_table(code: str) -> str:
    """C++ source of the table that runtime/counts.cpp multiplies with executions."""
    raise NotImplementedError

"""An operation on fixed inputs, ours and those of rivals on MLX timed by the same lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from tests.tolerances import to_numpy

from benchmarks.measure import OURS, TOLERANCE, Case

Function = Callable[..., mx.array]


@dataclass(frozen=True)
class Work:
    """`function(**inputs)` in the order of `inputs`; gradients are those of the inputs named in `differentiable`.

    `expected` and `expected_both` give the reference of `part(result)` and `part_both(gradients)`: large results are
    compared in part.
    """

    function: Function
    inputs: dict[str, mx.array]
    case: Case
    case_both: Case
    expected: Callable[[], Any]
    differentiable: tuple[str, ...] = ()
    expected_both: Callable[[], Sequence[Any]] = tuple
    part: Callable[[Any], Any] = lambda result: result
    part_both: Callable[[Sequence[Any]], Sequence[Any]] = lambda gradients: gradients

    def __getitem__(self, name: str) -> mx.array:
        return self.inputs[name]

    def numpy(self) -> dict[str, np.ndarray]:
        """The inputs in float64, as references take them."""
        return {name: to_numpy(x) if mx.issubdtype(x.dtype, mx.floating) else np.array(x)
                for name, x in self.inputs.items()}  # fmt: skip

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.case.dtype]

    def dy(self) -> mx.array:
        """The cotangent: random, the same in every run."""
        like = mx.zeros_like(self.function(**self.inputs))
        dy = mx.random.normal(like.shape, key=mx.random.key(1)).astype(like.dtype)
        mx.eval(dy)
        return dy

    def gradients(self, function: Function | None = None) -> Callable[[], tuple[list[mx.array], list[mx.array]]]:
        """A call that gives the result and the gradients of the differentiable inputs."""
        run, inputs, dy = function or self.function, self.inputs, self.dy()
        primals = [inputs[name] for name in self.differentiable]

        def of(*values: mx.array) -> list[mx.array]:
            return [run(**{**inputs, **dict(zip(self.differentiable, values, strict=True))})]

        return lambda: mx.vjp(of, primals, [dy])

    def forward(self, timed: Any, variant: str = OURS, function: Function | None = None, **options: Any) -> None:
        """Check and time the operation; `function` is a rival's, on the same MLX inputs."""
        run, inputs = function or self.function, self.inputs
        case, options = named(self.case, variant, options)
        options = {"expected": self.expected, "tolerance": self.tolerance, "select": self.part, **options}
        timed(lambda: run(**inputs), case, **options)

    def both(self, timed: Any, variant: str = OURS, function: Function | None = None, **options: Any) -> None:
        """Check and time the operation forward and backward."""
        case, options = named(self.case_both, variant, options)
        options = {"expected": self.expected_both, "tolerance": 2 * self.tolerance,
                   "select": lambda result: self.part_both(result[1]), **options}  # fmt: skip
        timed(self.gradients(function), case, **options)


def named(case: Case, variant: str, options: dict[str, Any]) -> tuple[Case, dict[str, Any]]:
    threads = options.pop("threads", case.threads)
    return replace(case, variant=variant, threads=threads), options

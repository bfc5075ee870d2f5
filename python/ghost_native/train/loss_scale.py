"""The factor on the loss that keeps gradients inside float16."""

from __future__ import annotations

_GROWTH_STEPS = 2000  # good steps after which a larger factor is tried
_SMALLEST, _LARGEST = 1.0, 2.0**24


class LossScale:
    """Halved whenever gradients overflow, doubled after 2,000 steps in which they did not.

    Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740.

    Args:
        value: the first factor; a power of two changes no digit of the gradients.
    """

    def __init__(self, value: float) -> None:
        self.value = value
        self.good_steps = 0
        self.overflows = 0

    def after(self, finite: bool) -> None:
        """Note how a step's gradients came out.

        Raises:
            FloatingPointError: even with a factor of 1 they overflow, so they are not finite by themselves.
        """
        if not finite:
            if self.value == _SMALLEST:
                raise FloatingPointError(
                    "[LossScale] gradients are not finite whatever the loss scale; use float32 or a smaller lr"
                )
            self.value, self.good_steps = max(_SMALLEST, self.value / 2), 0
            self.overflows += 1
            return
        self.good_steps += 1
        if self.good_steps == _GROWTH_STEPS:
            self.value, self.good_steps = min(_LARGEST, self.value * 2), 0

    def state(self) -> dict[str, float | int]:
        return {"value": self.value, "good_steps": self.good_steps, "overflows": self.overflows}

    def restore(self, state: dict[str, float | int]) -> None:
        self.value = float(state["value"])
        self.good_steps, self.overflows = int(state["good_steps"]), int(state["overflows"])

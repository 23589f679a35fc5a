"""What a schedule is."""

from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int, int | None], float]
"""(step, horizon) -> multiplier of each parameter group's own learning rate, in [0, 1].

`step` is the number of optimizer steps already taken, so 0 for the first update and horizon - 1 for the last.
`horizon` is the number of optimizer steps of the run, None where the run has no finite length. The same arguments give
the same value: a resumed run follows the formula, and so does one whose horizon was extended.
"""

"""What the contract tests run over: every word of the table with its defaults, and arguments that bend the formulas."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from stepsize.schedules import SCHEDULES
from stepsize.schedules.schedule import Schedule

ARGUMENTS: dict[str, dict[str, Any]] = {word: {} for word in SCHEDULES} | {
    "linear to a tenth": {"final_fraction": 0.1},
    "cosine to a tenth": {"final_fraction": 0.1},
    "step every 7 steps": {"every_steps": 7, "factor": 0.5},
    "step every seventh": {"every_fraction": 0.07},
    "step every hundredth": {"every_fraction": 0.01, "factor": 0.9},
    "multistep at steps": {"milestone_steps": [3, 8]},
    "multistep at fractions": {"milestone_fractions": [0.01, 0.5, 1.0]},
    "exponential to a half": {"final_fraction": 0.5},
    "polynomial of a root": {"power": 0.5, "final_fraction": 0.3},
    "inverse_sqrt of one step": {"timescale_steps": 1},
    "one_cycle with a late peak": {"peak_fraction": 0.9, "initial_fraction": 0.5, "final_fraction": 0.0},
    "warmup_stable_decay all the way": {"decay_fraction": 1.0, "final_fraction": 0.1},
    "cosine_restarts that grow": {"num_cycles": 3, "cycle_factor": 2.0, "final_fraction": 0.1},
    "cosine_restarts that grow fast": {"num_cycles": 40, "cycle_factor": 1e10},
    "plateau of max": {"mode": "max"},
}
"""Case -> arguments. A case begins with its word."""

START = {"one_cycle": 0.04, "one_cycle with a late peak": 0.5}
"""The multiplier at step 0 of a case that does not start at 1."""

ENDLESS = {
    "constant",
    "inverse_sqrt",
    "inverse_sqrt of one step",
    "plateau",
    "plateau of max",
    "step every 7 steps",
    "multistep at steps",
}
"""The cases that work in a run without an end."""


def factory(word: str) -> Callable[..., Schedule]:
    module, name = SCHEDULES[word].rsplit(".", 1)
    return getattr(import_module(module), name)


def make(case: str) -> Schedule:
    return factory(case.split()[0])(**ARGUMENTS[case])

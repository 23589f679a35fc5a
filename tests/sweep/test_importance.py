"""Importance finds what the objective was made of."""

import math
import random

import pytest

from stepsize.sweep.importance import importance, searched
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult


def made_of(what: str, n: int = 30, **more: object) -> tuple[SweepResult, ArmResult]:
    """Random trials whose objective is a function of one of their parameters."""
    draw = random.Random(0)
    trials = []
    for i in range(n):
        x = {
            "lr": 10 ** draw.uniform(-5, -1),
            "dropout": draw.uniform(0, 0.5),
            "schedule": draw.choice(["a", "b", "c"]),
        }
        objective = {
            "lr": abs(math.log10(x["lr"]) + 3),
            "dropout": x["dropout"],
            "schedule": 1.0 if x["schedule"] == "b" else 0.0,
            "nothing": 1.0,
            "both": x["dropout"] + 0.2 * abs(math.log10(x["lr"]) + 3),
        }
        trials.append(TrialResult(i, State.complete, objective[what], {**x, **more}))
    arm = ArmResult("", (), tuple(trials), "lr")
    return SweepResult("s", "val/loss", "min", n, (arm,), "random", "none", ""), arm


@pytest.mark.parametrize("what", ["lr", "dropout", "schedule"])
def test_the_parameter_that_decides_has_nearly_all(what: str) -> None:
    found = importance(*made_of(what))
    assert next(iter(found)) == what
    assert found[what] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_what_two_parameters_decide_is_shared() -> None:
    found = importance(*made_of("both", n=60))
    assert min(found["lr"], found["dropout"]) > 0.2
    assert found["schedule"] < 0.05


def test_it_is_seeded() -> None:
    assert importance(*made_of("both"), seed=1) == importance(*made_of("both"), seed=1)
    assert importance(*made_of("both"), seed=1) != importance(*made_of("both"), seed=2)


@pytest.mark.parametrize(("what", "n"), [("lr", 7), ("nothing", 30)])
def test_too_few_trials_and_a_flat_objective_have_none(what: str, n: int) -> None:
    assert importance(*made_of(what, n)) is None


def test_eight_trials_are_enough() -> None:
    assert importance(*made_of("lr", 8)) is not None


def test_what_does_not_differ_was_not_searched() -> None:
    _, arm = made_of("lr", width=128)
    assert searched(arm) == ["lr", "dropout", "schedule"]


def test_one_parameter_has_no_share_to_compare() -> None:
    sweep, arm = made_of("lr")
    trials = tuple(TrialResult(t.number, t.state, t.value, {"lr": t.params["lr"]}) for t in arm.trials)
    assert importance(sweep, ArmResult("", (), trials, "lr")) is None


def test_numbers_typed_as_text_are_in_the_order_of_numbers() -> None:
    # 8, 64, 512 in alphabetical order would be 512, 64, 8 and 1024 before all of them
    widths = ["8", "64", "512", "1024"] * 6
    trials = [
        TrialResult(i, State.complete, float(int(w) > 100), {"width": w, "seed": i % 5}) for i, w in enumerate(widths)
    ]
    arm = ArmResult("", (), tuple(trials))
    found = importance(SweepResult("s", "m", "min", 24, (arm,), "random", "none", ""), arm)
    assert found["width"] > 0.95


def test_a_parameter_that_some_trials_lack_is_no_error() -> None:
    sweep, arm = made_of("lr")
    lacking = tuple(
        TrialResult(t.number, t.state, t.value, {k: v for k, v in t.params.items() if k == "lr" or t.number % 2})
        for t in arm.trials
    )
    found = importance(sweep, ArmResult("", (), lacking, "lr"))
    assert found["lr"] > 0.8


def test_diverged_trials_count_as_untrained() -> None:
    sweep, arm = made_of("dropout")
    trials = tuple(
        TrialResult(t.number, State.diverged, math.inf, t.params) if t.params["lr"] > 1e-3 else t for t in arm.trials
    )
    assert importance(sweep, ArmResult("", (), trials, "lr", at_init=5.0))["lr"] > 0.9

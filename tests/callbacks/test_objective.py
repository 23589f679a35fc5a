import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from stepsize.callbacks.objective import Objective
from stepsize.run import train


def validated(objective: Objective, *values: float, sanity_checking: bool = False, **others: float) -> Objective:
    """The objective after validations with these values, ten steps apart."""
    for index, value in enumerate(values, 1):
        logged = {objective.metric: value} | {k.replace("_", "/", 1): v for k, v in others.items()}
        metrics = {k: torch.tensor(v, dtype=torch.float64) for k, v in logged.items()}
        trainer: Any = SimpleNamespace(
            callback_metrics=metrics, global_step=10 * index, sanity_checking=sanity_checking
        )
        objective.on_validation_end(trainer, None)
    return objective


def test_the_smallest_value_is_the_best_of_min() -> None:
    objective = validated(Objective("val/loss", "min"), 3.0, 1.0, 2.0)
    assert (objective.best, objective.step) == (1.0, 20)


def test_the_largest_value_is_the_best_of_max() -> None:
    objective = validated(Objective("val/accuracy", "max"), -3.0, -1.0, -2.0)
    assert (objective.best, objective.step) == (-1.0, 20)


def test_of_equal_values_the_first_is_the_best() -> None:
    assert validated(Objective("val/loss", "min"), 1.0, 1.0).step == 10


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_no_number_is_never_the_best(mode: str) -> None:
    objective = validated(Objective("val/loss", mode), math.nan, 2.0, math.nan)
    assert (objective.best, objective.step) == (2.0, 20)


def test_without_a_number_there_is_no_best_step() -> None:
    assert validated(Objective("val/loss", "min"), math.nan).step is None


def test_the_last_values_are_those_of_the_last_validation_and_not_of_the_best() -> None:
    objective = validated(Objective("val/loss", "min"), 1.0, 2.0)
    assert (objective.last, objective.at_best) == ({"val/loss": 2.0}, {"val/loss": 1.0})


def test_every_validation_metric_is_kept_and_no_other() -> None:
    objective = validated(Objective("val/loss", "min"), 1.0, val_accuracy=0.5, train_loss=9.0, step=10.0)
    assert objective.at_best == {"val/loss": 1.0, "val/accuracy": 0.5}


def test_what_was_measured_before_training_does_not_count() -> None:
    objective = validated(Objective("val/loss", "min"), 0.0, sanity_checking=True)
    assert (objective.best, objective.last) == (math.inf, {})


def test_a_resumed_objective_still_knows_its_best() -> None:
    first = validated(Objective("val/loss", "min"), 1.0)
    second = Objective("val/loss", "min")
    second.load_state_dict(first.state_dict())
    validated(second, 5.0, 4.0)
    assert (second.best, second.step, second.at_best) == (1.0, 10, {"val/loss": 1.0})


def test_the_best_of_another_metric_is_no_best_of_this_one() -> None:
    first = validated(Objective("val/loss", "min"), 0.1)
    second = Objective("val/perplexity", "min")
    second.load_state_dict(first.state_dict())
    assert (second.metric, second.best, second.step) == ("val/perplexity", math.inf, None)


def test_the_end_of_max_steps_inside_an_epoch_is_validated(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("trainer=cpu", "trainer.max_steps=40", "schedule=constant", "callbacks=minimal", "logger=none")
    train(cfg)  # 33 steps an epoch
    said = json.loads((Path(cfg.run_dir) / "result.json").read_text())
    assert said["objective"]["step"] == said["steps"] == 40

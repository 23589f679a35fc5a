"""result.json: written however a run ends, whole or not at all."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from torch import nn

from stepsize import result
from stepsize.callbacks.objective import Objective
from stepsize.errors import TrainingStoppedError
from stepsize.result import recorded

KEYS = {
    "ended", "objective", "best", "last", "test", "steps", "epochs", "examples", "wall_seconds", "parameters", "seed",
    "checkpoint", "resumed_from_step", "skipped_steps", "command", "git_commit", "versions", "device", "world_size",
}  # fmt: skip


class Network(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


@pytest.fixture
def trainer(tmp_path: Path) -> L.Trainer:
    return L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)


@pytest.fixture
def run(trainer: L.Trainer, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What result.json says of a run that ends in `error`."""

    def end(error: BaseException | None = None, objective: Objective | None = None, **tested: float) -> dict[str, Any]:
        objective = objective or Objective("val/loss", "min")
        caught: BaseException | None = None
        try:
            with recorded(tmp_path / "result.json", trainer, Network(), objective, 32, 0) as test:
                test |= tested
                _raise(error)
        except BaseException as reached:
            caught = reached
        assert caught is error
        return json.loads((tmp_path / "result.json").read_text(), parse_constant=_refuse)

    return end


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, "finished"),
        (TrainingStoppedError("the loss is not finite"), "stopped: the loss is not finite"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
        (ZeroDivisionError("by zero"), "failed: ZeroDivisionError: by zero"),
    ],
    ids=repr,
)
def test_every_end_is_written_and_passed_on(run: Callable[..., Any], error: BaseException | None, ended: str) -> None:
    assert run(error)["ended"] == ended


def test_it_holds_all_that_is_promised(run: Callable[..., Any]) -> None:
    assert set(run()) == KEYS


def test_it_holds_the_versions_of_what_trained(run: Callable[..., Any]) -> None:
    assert set(run()["versions"]) == {"python", "stepsize", "torch", "lightning", "hydra-core"}


def test_a_seed_of_0_is_0(run: Callable[..., Any]) -> None:
    assert run()["seed"] == 0


def test_parameters_are_counted(run: Callable[..., Any]) -> None:
    assert run()["parameters"] == 8


def test_a_run_that_took_no_step_says_so(run: Callable[..., Any]) -> None:
    found = run()
    assert [found[key] for key in ("steps", "epochs", "examples")] == [0, 0, 0]


def test_test_metrics_are_those_of_the_block(run: Callable[..., Any]) -> None:
    assert run(None, None, loss=0.5)["test"] == {"loss": 0.5}


def test_the_objective_s_best_and_last_are_written(run: Callable[..., Any]) -> None:
    objective = Objective("val/loss", "min")
    objective.best, objective.step = 0.25, 7
    objective.at_best, objective.last = {"val/loss": 0.25}, {"val/loss": 0.5}
    found = run(None, objective)
    assert [found[key] for key in ("objective", "best", "last")] == [
        {"metric": "val/loss", "mode": "min", "best": 0.25, "step": 7},
        {"val/loss": 0.25},
        {"val/loss": 0.5},
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(run: Callable[..., Any], value: float) -> None:
    assert run(None, None, loss=value)["test"] == {"loss": None}


def test_an_objective_that_was_never_measured_is_null(run: Callable[..., Any]) -> None:
    assert run(KeyboardInterrupt())["objective"]["best"] is None


def test_a_later_result_replaces_an_earlier_one(run: Callable[..., Any]) -> None:
    run(None, None, loss=1.0)
    assert run(None, None, loss=2.0)["test"] == {"loss": 2.0}


def test_nothing_but_the_result_is_left(run: Callable[..., Any], tmp_path: Path) -> None:
    run()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_result_that_cannot_be_written_leaves_the_old_one_whole(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(None, None, loss=1.0)
    before = (tmp_path / "result.json").read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        result._write(tmp_path / "result.json", {"loss": 2.0})
    assert (tmp_path / "result.json").read_bytes() == before


def test_without_git_the_commit_is_null(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run()["git_commit"] is None


@pytest.mark.parametrize("step", [None, 0, 7])
def test_the_step_that_training_went_on_from_is_told(trainer: L.Trainer, tmp_path: Path, step: int | None) -> None:
    with recorded(tmp_path / "result.json", trainer, Network(), Objective("val/loss", "min"), 32, 0, resumed_from=step):
        pass
    assert json.loads((tmp_path / "result.json").read_text())["resumed_from_step"] == step


def test_only_process_0_writes(tmp_path: Path) -> None:
    second = SimpleNamespace(is_global_zero=False)
    with recorded(tmp_path / "result.json", second, Network(), Objective("val/loss", "min"), 32, 0):
        pass
    assert not [*tmp_path.iterdir()]

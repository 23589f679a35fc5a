import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from stepsize import build
from stepsize.callbacks.reporting import Reporting
from stepsize.run import train
from stepsize.trial import Follower, reporting_to

Composed = Callable[..., DictConfig]
QUICK = ("trainer=cpu", "logger=none", "callbacks=minimal", "trainer.max_epochs=3", "data.batch_size=256")


class Tried:
    """A trial that keeps what is reported, and stops a run at its report number `stop_at`, 1, 2, ..."""

    def __init__(self, wants_start: bool = False, stop_at: int | None = None) -> None:
        self.params: dict[str, Any] = {}
        self.wants_start, self.stop_at = wants_start, stop_at
        self.reports: list[tuple[int, float]] = []
        self.starts: list[float] = []

    def report(self, step: int, value: float) -> bool:
        self.reports.append((step, value))
        return len(self.reports) == self.stop_at

    def report_start(self, value: float) -> None:
        self.starts.append(value)


@pytest.fixture
def tried(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """tried(trial, words...) trains as a trial does; returns the objective, result.json and the last weights."""
    runs = iter(range(10))

    def run(trial: Any, *words: str) -> tuple[float, dict[str, Any], dict[str, torch.Tensor]]:
        folder = tmp_path / str(next(runs))
        cfg = composed(*QUICK, *words)
        monkeypatch.setattr("stepsize.run.run_folder", lambda cfg: folder)
        (folder / "checkpoints").mkdir(parents=True)
        kept: dict[str, torch.Tensor] = {}

        def assemble(cfg: DictConfig, folder: Path) -> Any:
            made = ASSEMBLE(cfg, folder)
            kept.update(made[1].state_dict())
            return made

        monkeypatch.setattr(build, "assemble", assemble)
        with reporting_to(trial):
            objective = train(cfg)
        return objective, json.loads((folder / "result.json").read_text()), {k: v.clone() for k, v in kept.items()}

    return run


ASSEMBLE = build.assemble
STEPS = -(-1079 // 256) - 1  # of an epoch: the last batch is not full


def test_each_validation_is_reported_with_the_step_it_follows(tried: Callable[..., Any]) -> None:
    trial = Tried()
    objective, result, _ = tried(trial)
    assert [step for step, _ in trial.reports] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert min(value for _, value in trial.reports) == objective
    assert trial.reports[-1][1] == result["last"]["val/loss"]
    assert (result["ended"], list(result["test"])) == ("finished", ["test/loss", "test/accuracy"])


def test_what_is_reported_is_the_objective_s_metric(tried: Callable[..., Any]) -> None:
    trial = Tried(wants_start=True)
    objective, result, _ = tried(trial, "objective.metric=val/accuracy", "objective.mode=max", "trainer.max_epochs=1")
    assert [value for _, value in trial.reports] == [result["last"]["val/accuracy"]] == [objective]
    assert 0 <= trial.starts[0] < 0.4


def test_a_run_that_is_told_to_stop_ends_there_without_a_test(tried: Callable[..., Any]) -> None:
    trial = Tried(stop_at=2)
    objective, result, _ = tried(trial)
    assert [step for step, _ in trial.reports] == [STEPS, 2 * STEPS]
    assert (result["ended"], result["steps"], result["test"]) == (f"pruned at step {2 * STEPS}", 2 * STEPS, {})
    assert objective == min(value for _, value in trial.reports)


def test_measuring_before_training_changes_no_bit_of_the_training(tried: Callable[..., Any]) -> None:
    words = ("model=convnet", "model.dropout=0.3", "trainer.max_epochs=1")  # batch norm, and numbers drawn at random
    measured, left = Tried(wants_start=True), Tried()
    first, second = tried(measured, *words), tried(left, *words)
    assert (len(measured.starts), left.starts) == (1, [])
    assert measured.reports == left.reports
    assert (first[0], first[1]["test"]) == (second[0], second[1]["test"])
    assert all(torch.equal(first[2][name], second[2][name]) for name in second[2])


@pytest.mark.parametrize("limit", ["1.0", "1", "0.5"])
def test_the_value_before_training_is_that_of_the_untrained_network(
    tried: Callable[..., Any], composed: Composed, tmp_path: Path, limit: str
) -> None:
    words = ("model.dropout=0.3", f"trainer.limit_val_batches={limit}", "trainer.max_epochs=1", "data.batch_size=50")
    trial = Tried(wants_start=True)
    tried(trial, *words)
    still = Tried()
    tried(still, *words, "optimizer=sgd", "optimizer.lr=1e-30", "schedule=constant")  # trains, and moves nothing
    assert trial.starts == [pytest.approx(still.reports[0][1], rel=1e-6)]


def test_a_resumed_run_does_not_measure_what_is_no_longer_untrained(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = (*QUICK, "callbacks=default", "callbacks.progress=null", "callbacks.monitor=null")
    train(composed(*quick, "trainer.max_epochs=1"))
    trial = Tried(wants_start=True)
    with reporting_to(trial):
        train(composed(*quick, "trainer.max_epochs=2", f"resume={tmp_path / 'run'}"))
    assert (trial.starts, [step for step, _ in trial.reports]) == ([], [2 * STEPS])


def test_the_process_that_follows_stops_nothing(tried: Callable[..., Any]) -> None:
    _, result, _ = tried(Follower())
    assert (result["ended"], result["steps"]) == ("finished", 3 * STEPS)


def test_outside_a_sweep_nothing_reports(composed: Composed) -> None:
    cfg = composed(*QUICK)
    callbacks = build.assemble(cfg, Path(cfg.run_dir))[0].callbacks  # type: ignore[attr-defined]
    assert not any(isinstance(callback, Reporting) for callback in callbacks)

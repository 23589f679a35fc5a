"""Steps that are left out: as if their batches had not been."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor, nn

from stepsize import build, schedules
from stepsize.callbacks.monitor import Monitor
from stepsize.errors import TrainingStoppedError
from stepsize.evaluations import evaluates_again
from stepsize.optimizers import OPTIMIZERS
from stepsize.param_groups import param_groups
from stepsize.run import train
from stepsize.schedules.constant import constant
from stepsize.signature import load
from stepsize.task import Task

Batch = tuple[Tensor, Tensor]
Composed = Callable[..., DictConfig]
WORDS = [word for word, target in OPTIMIZERS.items() if not evaluates_again(load(target))]


class Batches:
    """Random ones by number, the same in each epoch; the number -1 has a value that is not finite."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Batch]:
        for number in self.numbers:
            drawn = torch.Generator().manual_seed(number + 1)
            x, y = torch.randn(8, 4, generator=drawn), torch.randint(3, (8,), generator=drawn)
            x[0, 0] = math.nan if number < 0 else x[0, 0]
            yield x, y


class Data(L.LightningDataModule):
    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = numbers

    def train_dataloader(self) -> Batches:
        return Batches(*self.numbers)

    def val_dataloader(self) -> Batches:
        return Batches(0)


class LossAlone(Task):
    """A loss that is not finite, of a batch that has such a value, but a gradient that is."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((x.nan_to_num(), y), batch_idx) + x.mean() * 0


class GradientAlone(Task):
    """A gradient that is not finite, of a batch that has such a value, but a loss that is."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        loss = super().training_step((x.nan_to_num(), y), batch_idx)
        if x.isnan().any():
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss


class Page(Logger):
    """Keeps what is logged: step -> tag -> value."""

    name, version = "page", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {}).update(metrics)

    def log_hyperparams(self, *args: Any, **keywords: Any) -> None:
        pass


class Kept(L.Callback):
    """Weights, buffers and the optimizer's state after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        if trainer.global_step == self.step and not hasattr(self, "state"):
            self.state = deepcopy((pl_module.state_dict(), trainer.optimizers[0].state_dict()))


Make = Callable[..., tuple[Kept, Page, L.Trainer]]


@pytest.fixture
def fit(composed: Composed) -> Make:
    def make(
        numbers: Sequence[int],
        *callbacks: L.Callback,
        word: str = "momentum",
        kind: type[Task] = Task,
        keep: int = 0,
        monitor: Monitor | None = None,
        **keywords: Any,
    ) -> tuple[Kept, Page, L.Trainer]:
        torch.manual_seed(0)
        kept, page = Kept(keep), Page()
        trainer = L.Trainer(
            **{"log_every_n_steps": 1, "max_epochs": 1, "limit_val_batches": 0} | keywords,
            accelerator="cpu",
            logger=page,
            callbacks=[monitor or Monitor("skip"), *callbacks, kept],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = build.optimizer(composed(f"optimizer={word}"), torch.device("cpu"))
        groups = param_groups(
            network, optimizer.keywords["lr"], optimizer.keywords.get("weight_decay"), rules=build.rules(optimizer)
        )
        trainer.fit(kind(network, optimizer, constant(), groups), Data(numbers))
        return kept, page, trainer

    return make


def same(one: Any, other: Any) -> bool:
    match one:
        case dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case Tensor():
            return torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("word", WORDS)
def test_a_skipped_batch_leaves_no_trace(fit: Make, word: str) -> None:
    with_it, _, _ = fit([0, 1, -1, 2, 3], word=word, keep=5)
    without, _, _ = fit([0, 1, 2, 3, 4], word=word, keep=4)
    assert same(with_it.state, without.state)


@pytest.mark.parametrize("word", ["adamw", "momentum", "lion", "schedule_free_adamw"])
def test_a_skipped_first_batch_leaves_no_trace(fit: Make, word: str) -> None:
    with_it, _, _ = fit([-1, 0, 1], word=word, keep=3)
    without, _, _ = fit([0, 1, 2], word=word, keep=2)
    assert same(with_it.state, without.state)


@pytest.mark.parametrize("word", ["adamw", "lion"])
@pytest.mark.parametrize("kind", [LossAlone, GradientAlone])
def test_the_loss_or_the_gradient_alone_is_enough(fit: Make, kind: type[Task], word: str) -> None:
    with_it, _, _ = fit([0, -1, 1], word=word, kind=kind, keep=3)
    without, _, _ = fit([0, 1, 2], word=word, kind=kind, keep=2)
    assert same(with_it.state, without.state)


@pytest.mark.parametrize("kind", [Task, LossAlone, GradientAlone])
@pytest.mark.parametrize("window", [[2, -1], [-1, 2]])
@pytest.mark.parametrize("word", ["adamw", "lion"])
def test_with_accumulation_the_whole_step_is_skipped(fit: Make, word: str, window: list[int], kind: type[Task]) -> None:
    with_it, _, _ = fit([0, 1, *window, 3, 4], word=word, kind=kind, keep=3, accumulate_grad_batches=2)
    without, _, _ = fit([0, 1, 3, 4, 5, 6], word=word, kind=kind, keep=2, accumulate_grad_batches=2)
    assert same(with_it.state, without.state)


def test_an_incomplete_accumulation_at_an_epochs_end_is_skipped_alone(fit: Make) -> None:
    with_it, _, _ = fit([0, 1, -1], keep=3, accumulate_grad_batches=2, max_epochs=2)  # 0 1 | -1 || 0 1 | -1
    without, _, _ = fit([0, 1], keep=2, accumulate_grad_batches=2, max_epochs=2)
    assert same(with_it.state, without.state)


def test_gradient_clipping_changes_nothing_of_it(fit: Make) -> None:
    with_it, _, _ = fit([0, -1, 1], word="adamw", keep=3, gradient_clip_val=1e-3)
    without, _, _ = fit([0, 1, 2], word="adamw", keep=2, gradient_clip_val=1e-3)
    assert same(with_it.state, without.state)


def test_a_fused_step_is_told_on_the_device_from_the_second_step_on(fit: Make) -> None:
    told = []

    class Told(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
            told.append(getattr(trainer.optimizers[0], "found_inf", None))

    _, _, trainer = fit([0, 1, -1, 2], Told(), word="adamw")
    assert told == [None, 0.0, 1.0, 0.0]
    assert not hasattr(trainer.optimizers[0], "found_inf")


@pytest.mark.parametrize("word", ["adamw", "lion"])
def test_skipped_steps_are_counted_from_the_first_on(fit: Make, word: str) -> None:
    monitor = Monitor("skip")
    _, page, _ = fit([0, -1, 1, -1, -1, 2], word=word, monitor=monitor)
    counted = {step: row["optim/skipped_steps"] for step, row in page.rows.items() if "optim/skipped_steps" in row}
    assert counted == {2: 1, 3: 1, 4: 2, 5: 3, 6: 3}
    assert monitor.watch.skipped == 3


@pytest.mark.parametrize("word", ["adamw", "lion"])
def test_what_is_logged_is_finite_and_of_the_steps_that_were_taken(fit: Make, word: str) -> None:
    _, each, _ = fit([0, 1, -1, 2], word=word)
    assert "train/loss" not in each.rows[3]
    assert "optim/grad_norm" not in each.rows[3]
    assert each.rows[3]["optim/update_ratio"] == 0
    _, page, _ = fit([0, 1, -1, 2], word=word, log_every_n_steps=4)
    taken = [each.rows[step]["train/loss"] for step in (2, 4)]
    assert page.rows[4]["train/loss"] == pytest.approx(sum(taken) / 2)
    assert all(math.isfinite(value) for row in page.rows.values() for value in row.values())


def test_the_first_skipped_step_is_told_once(fit: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "stepsize"):
        fit([0, -1, 1, -1, 2])
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("stepsize")]
    assert said.startswith("loss or gradient not finite: step 1 is not taken")


@pytest.mark.parametrize("log_every", [0, 1, 3])
@pytest.mark.parametrize("word", ["adamw", "lion"])
def test_more_than_so_many_in_a_row_stop(fit: Make, word: str, log_every: int) -> None:
    said = r"^3 steps in a row had a loss or gradient that is not finite, the last at step 3, where lr was .*: lower"
    with pytest.raises(TrainingStoppedError, match=said):
        fit([0, -1, -1, -1, -1, 1], word=word, monitor=Monitor("skip", 2), log_every_n_steps=log_every)


def test_a_step_that_is_taken_begins_the_row_anew(fit: Make) -> None:
    monitor = Monitor("skip", 2)
    fit([0, -1, -1, 1, -1, -1], monitor=monitor)
    assert monitor.state_dict() == {"skipped_steps": 4, "skipped_in_row": 2}


def test_the_counts_survive_a_resumption(fit: Make) -> None:
    before, after = Monitor("skip", 2), Monitor("skip", 2)
    fit([0, -1, -1], monitor=before)
    after.load_state_dict(before.state_dict())
    with pytest.raises(TrainingStoppedError, match=r"^3 steps in a row .* the last at step 0,"):
        fit([-1, 0], monitor=after)


class Poison(L.Callback):
    """Makes the gradient infinite after the first validation."""

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 40:
            next(pl_module.parameters()).grad.fill_(math.inf)


def test_the_result_has_the_total_although_an_earlier_checkpoint_is_tested(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math, "Poison", Poison, raising=False)
    # The second epoch spoils what the first has learned, whose checkpoint knows of no skipped step.
    monkeypatch.setattr(schedules.constant, "constant", lambda: lambda step, horizon: 1.0 if step < 33 else 1000.0)
    words = ("trainer=cpu", "trainer.max_epochs=2", "schedule=constant", "optimizer.lr=0.01", "logger=none")
    cfg = composed(*words, "callbacks.monitor.non_finite=skip", "+callbacks.poison._target_=math.Poison")
    train(cfg)
    said = json.loads((Path(cfg.run_dir) / "result.json").read_text())
    assert (said["skipped_steps"], said["steps"], said["objective"]["step"]) == (1, 66, 33)


def test_two_processes_leave_out_the_same_steps_whichever_has_the_bad_batch() -> None:
    script = Path(__file__).with_name("ddp_skipping.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    assert sorted(told) == sorted(
        f"told {word} {kind} skipped 2 of 6, equal, finite"
        for word in ("adamw", "lion")
        for kind in ("Task", "LossAlone", "GradientAlone")
    )


@pytest.mark.parametrize("words", [[], ["callbacks=minimal"], ["callbacks=early_stopping"]])
def test_every_choice_of_callbacks_watches(composed: Composed, tmp_path: Path, words: list[str]) -> None:
    trainer = build.assemble(composed(*words, "callbacks.monitor.non_finite=skip", "logger=none"), tmp_path).trainer
    assert [c.watch.policy for c in trainer.callbacks if isinstance(c, Monitor)] == ["skip"]

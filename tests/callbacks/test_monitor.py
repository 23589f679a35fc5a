import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.callbacks.monitor import Monitor
from stepsize.callbacks.objective import Objective
from stepsize.errors import TrainingStoppedError
from stepsize.param_groups import param_groups
from stepsize.resume.loops import install
from stepsize.schedules.linear import linear
from stepsize.task import Task

Batch = tuple[Tensor, Tensor]


class Batches:
    """As many batches an epoch; the one numbered `broken`, counted over the whole run, is not finite."""

    def __init__(self, number: int, broken: int | None = None) -> None:
        self.number, self.broken, self.given = number, broken, 0

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.number):
            x = torch.full((4, 4), math.nan if self.given == self.broken else 1.0)
            self.given += 1
            yield x, torch.tensor([0, 1, 2, 0])


class Sound(nn.Linear):
    """Its weights stay finite whatever the gradient, so that one broken batch breaks one loss."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(torch.nan_to_num(x))
        broken: Tensor = torch.where(x.isfinite().all(), 0.0, math.nan)
        return logits.nan_to_num() + broken


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

    def steps(self, tag: str) -> list[int]:
        return [step for step, row in self.rows.items() if tag in row]

    def tags(self) -> set[str]:
        return {tag for row in self.rows.values() for tag in row}


def fit(
    batches: Batches,
    *callbacks: L.Callback,
    page: Page | None = None,
    resume: Path | None = None,
    monitor: Monitor | None = None,
    **keywords: Any,
) -> Page:
    torch.manual_seed(0)
    page = page or Page()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=page,
        callbacks=[*callbacks, monitor or Monitor()],
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"num_sanity_val_steps": 0, "log_every_n_steps": 1} | keywords,
    )
    # a weight decay makes two groups; one so small, nothing else
    network, make = Sound(4, 3), partial(torch.optim.SGD, lr=0.1, weight_decay=1e-9)
    task = Task(network, make, linear(), param_groups(network, 0.1, 1e-9))
    install(trainer)
    trainer.fit(task, batches, Batches(1), ckpt_path=resume, weights_only=resume is not None or None)
    return page


@pytest.mark.parametrize("log_every", [0, 1, 2, 3])
@pytest.mark.parametrize("broken", [0, 4, 5, 6])
def test_a_loss_that_is_not_finite_is_found_at_its_step(broken: int, log_every: int) -> None:
    with pytest.raises(TrainingStoppedError, match=f"^the loss is not finite at step {broken}, where"):
        fit(Batches(7, broken), max_epochs=1, log_every_n_steps=log_every)


@pytest.mark.parametrize("log_every", [0, 1, 2, 3])
@pytest.mark.parametrize(("broken", "step"), [(0, 0), (1, 0), (2, 1), (5, 2)])
def test_with_accumulation_the_step_is_the_one_that_the_batch_goes_into(broken: int, step: int, log_every: int) -> None:
    with pytest.raises(TrainingStoppedError, match=f"^the loss is not finite at step {step}, where"):
        fit(Batches(8, broken), max_epochs=1, log_every_n_steps=log_every, accumulate_grad_batches=2)


@pytest.mark.parametrize("log_every", [0, 1, 2, 3])
@pytest.mark.parametrize(("broken", "step"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (8, 5)])
def test_an_incomplete_accumulation_at_an_epochs_end_is_a_step_of_its_own(
    broken: int, step: int, log_every: int
) -> None:
    # three batches an epoch are two steps: batches 0 1 | 2 || 3 4 | 5 || 6 7 | 8
    with pytest.raises(TrainingStoppedError, match=f"^the loss is not finite at step {step}, where"):
        fit(Batches(3, broken), max_epochs=3, log_every_n_steps=log_every, accumulate_grad_batches=2)


def test_the_learning_rate_that_is_named_is_that_of_the_step() -> None:
    with pytest.raises(TrainingStoppedError, match=r"at step 5, where lr was 0\.05:"):
        fit(Batches(10, broken=5), max_epochs=1, log_every_n_steps=0)


@pytest.mark.parametrize("log_every", [0, 1, 2])
def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(tmp_path: Path, log_every: int) -> None:
    objective = Objective("val/loss", "min")
    checkpoint = Checkpoint(tmp_path / "checkpoints", {}, [], objective)
    with pytest.raises(TrainingStoppedError, match=r"last good checkpoint: none yet$"):
        fit(Batches(3, broken=2), objective, checkpoint, max_epochs=1, log_every_n_steps=log_every)
    assert not list(tmp_path.rglob("*.*"))


def test_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    objective = Objective("val/loss", "min")
    checkpoint = Checkpoint(tmp_path / "checkpoints", {}, [], objective)
    with pytest.raises(TrainingStoppedError, match=r"last good checkpoint: .*last\.ckpt$"):
        fit(Batches(3, broken=4), objective, checkpoint, max_epochs=2)
    assert torch.load(checkpoint.last, weights_only=True)["global_step"] == 3


def test_without_a_log_the_losses_are_looked_at_within_a_hundred_steps() -> None:
    batches = Batches(1000, broken=3)
    with pytest.raises(TrainingStoppedError, match="at step 3,"):
        fit(batches, max_epochs=1, log_every_n_steps=0)
    assert batches.given <= 102  # Lightning fetches one ahead


def test_without_a_log_nothing_of_training_is_logged() -> None:
    page = fit(Batches(250), max_epochs=1, log_every_n_steps=0)
    assert {tag for tag in page.tags() if not tag.startswith("val/")} <= {"epoch"}


def test_nothing_is_logged_off_the_interval_but_the_first_step_and_the_last_losses() -> None:
    page = fit(Batches(5), max_epochs=2, log_every_n_steps=3)
    for tag in ("train/loss", "optim/grad_norm", "optim/update_ratio", "lr/decay", "lr/no_decay"):
        assert page.steps(tag) == [1, 3, 6, 9, *([10] if tag == "train/loss" else [])]


def test_with_accumulation_the_interval_is_in_optimizer_steps() -> None:
    page = fit(Batches(5), max_epochs=2, log_every_n_steps=2, accumulate_grad_batches=2)
    assert page.steps("train/loss") == page.steps("optim/update_ratio") == [1, 2, 4, 6]


def test_the_update_ratio_of_sgd_is_lr_times_gradient_norm_over_weight_norm() -> None:
    class Norm(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
            self.value = float(torch.cat([p.detach().flatten() for p in pl_module.parameters()]).norm())

    norm = Norm()
    row = fit(Batches(1), norm, max_steps=1).rows[1]
    assert row["optim/update_ratio"] == pytest.approx(0.1 * row["optim/grad_norm"] / norm.value, rel=1e-5)


def test_the_gradient_norm_is_that_before_clipping() -> None:
    free = fit(Batches(1), max_steps=1).rows[1]
    clipped = fit(Batches(1), max_steps=1, gradient_clip_val=1e-3).rows[1]
    assert clipped["optim/grad_norm"] == free["optim/grad_norm"]
    assert clipped["optim/update_ratio"] < 0.01 * free["optim/update_ratio"]


def test_the_schedule_is_drawn_once_from_its_start_to_its_end() -> None:
    page = fit(Batches(500), max_epochs=2, log_every_n_steps=500)
    steps = page.steps("schedule/multiplier")
    assert (steps[0], steps[-1]) == (1, 1000)
    assert 200 <= len(steps) <= 202
    assert page.rows[501]["schedule/multiplier"] == pytest.approx(0.5)


def test_a_sanity_check_before_training_disturbs_nothing() -> None:
    assert fit(Batches(3), max_epochs=1, num_sanity_val_steps=1).steps("train/loss") == [1, 2, 3]


class CutError(Exception):
    """Ends a run after its checkpoint."""


class Cut(L.Callback):
    """Saves after a step, and ends the run."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_step_end(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self.step:
            for callback in trainer.callbacks:
                if isinstance(callback, Monitor):
                    callback.look(trainer)
            trainer.save_checkpoint(self.path, weights_only=False)
            raise CutError


def cut_and_resumed(path: Path, number: int, step: int, broken: int | None = None, **keywords: Any) -> Page:
    """What a run logs that is cut after a step and resumed, each row of the part that logged it last."""
    policy = {"non_finite": "skip" if broken is not None else "stop"}
    first = Page()
    with pytest.raises(CutError):
        fit(Batches(number, broken), Cut(step, path), page=first, monitor=Monitor(**policy), **keywords)
    kept = Page()
    kept.rows = {at: row for at, row in first.rows.items() if at <= step}
    rest = Batches(number, None if broken is None else broken - step * keywords.get("accumulate_grad_batches", 1))
    return fit(rest, page=kept, resume=path, monitor=Monitor(**policy), **keywords)


@pytest.mark.parametrize("step", [1, 4, 5, 6, 11])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path: Path, step: int, accumulated: int) -> None:
    keywords = {"max_steps": 12, "max_epochs": -1, "log_every_n_steps": 5, "accumulate_grad_batches": accumulated}
    whole = fit(Batches(100), **keywords)
    assert cut_and_resumed(tmp_path / "cut.ckpt", 100, step, **keywords).rows == whole.rows


def test_a_resumed_run_counts_skipped_steps_on(tmp_path: Path) -> None:
    keywords = {"max_steps": 12, "max_epochs": -1, "log_every_n_steps": 5}
    whole = fit(Batches(100, broken=2), monitor=Monitor("skip"), **keywords)
    resumed = cut_and_resumed(tmp_path / "cut.ckpt", 100, 4, broken=2, **keywords)
    assert resumed.rows == whole.rows
    assert whole.rows[10]["optim/skipped_steps"] == 1


def test_what_a_checkpoint_keeps_of_it_is_plain(tmp_path: Path) -> None:
    keywords = {"max_steps": 12, "max_epochs": -1, "log_every_n_steps": 5}
    with pytest.raises(CutError):
        fit(Batches(100), Cut(7, tmp_path / "cut.ckpt"), **keywords)
    saved = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    assert saved["callbacks"]["Monitor"] == {"skipped_steps": 0, "skipped_in_row": 0}


def test_a_resumed_run_draws_the_schedule_that_is_to_come_and_no_more(tmp_path: Path) -> None:
    keywords = {"max_steps": 12, "max_epochs": -1, "log_every_n_steps": 5}
    with pytest.raises(CutError):
        fit(Batches(100), Cut(7, tmp_path / "cut.ckpt"), **keywords)
    resumed = fit(Batches(100), resume=tmp_path / "cut.ckpt", **keywords)
    assert resumed.steps("schedule/multiplier") == [8, 9, 10, 11, 12]

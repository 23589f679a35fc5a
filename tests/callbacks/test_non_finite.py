"""The watch over gradients; that over losses is in test_monitor.py, and steps that are left out in test_skipping.py."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from stepsize.callbacks.monitor import Monitor
from stepsize.errors import TrainingStoppedError
from stepsize.optimizers.lion import Lion
from stepsize.optimizers.sam import SAM
from stepsize.param_groups import param_groups
from stepsize.schedules.linear import linear
from stepsize.task import Task


class Infinite(L.Callback):
    """Makes a number of the gradient infinite at a step, in one evaluation of it; keeps the losses of all steps."""

    def __init__(self, step: int, evaluation: int = 1) -> None:
        self.step, self.evaluation, self.seen, self.losses = step, evaluation, 0, list[Tensor]()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == self.step:
            self.seen += 1
            if self.seen == self.evaluation:
                next(pl_module.parameters()).grad.view(-1)[0] = math.inf

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *rest: Any) -> None:
        self.losses.append(outputs["loss"])


class Batches:
    """Random ones, the same in each epoch."""

    def __init__(self, number: int) -> None:
        self.batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(number)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def fit(
    *callbacks: L.Callback, optimizer: type[Optimizer] = SGD, lr: float = 0.01, steps: int = 10, **keywords: Any
) -> None:
    torch.manual_seed(0)
    trainer = L.Trainer(
        **{"log_every_n_steps": 50, "logger": False, "enable_checkpointing": False} | keywords,
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*callbacks],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    network = nn.Linear(4, 3)
    task = Task(network, partial(optimizer, lr=lr), linear(), param_groups(network, lr, None))
    trainer.fit(task, Batches(steps), Batches(1))


@pytest.mark.parametrize("log_every", [0, 1, 3, 50])
@pytest.mark.parametrize("step", [0, 5, 9])
def test_a_gradient_that_is_not_finite_is_found_at_its_step(step: int, log_every: int) -> None:
    with pytest.raises(TrainingStoppedError, match=f"^the gradient is not finite at step {step}, where lr was"):
        fit(Infinite(step), Monitor(), optimizer=Lion, log_every_n_steps=log_every)


def test_with_accumulation_the_gradient_is_that_of_the_step() -> None:
    with pytest.raises(TrainingStoppedError, match=r"^the gradient is not finite at step 2, where lr was"):
        fit(Infinite(2), Monitor(), optimizer=Lion, accumulate_grad_batches=3)


def test_a_gradient_that_leaves_every_loss_finite_is_found() -> None:
    # Lion moves by the sign of a momentum: no weight and no loss shows that a number of it is infinite for ever.
    infinite = Infinite(2)
    with pytest.raises(TrainingStoppedError, match=r"^the gradient is not finite at step 2,"):
        fit(infinite, Monitor(), optimizer=Lion)
    assert len(infinite.losses) == 10
    assert torch.stack(infinite.losses).isfinite().all()


def test_the_answer_says_what_to_do_and_what_there_is_to_go_on_from() -> None:
    with pytest.raises(TrainingStoppedError) as caught:
        fit(Infinite(5), Monitor(), lr=0.2)
    assert str(caught.value) == (
        "the gradient is not finite at step 5, where lr was 0.1: lower optimizer.lr, lengthen the warmup, set "
        "trainer.gradient_clip_val=1, or leave such steps out with callbacks.monitor.non_finite=skip; "
        "last good checkpoint: none yet"
    )


def test_the_gradient_of_a_later_evaluation_in_the_same_step_is_found() -> None:
    with pytest.raises(TrainingStoppedError, match=r"^the gradient is not finite at step 3,"):
        fit(Infinite(3, evaluation=2), Monitor(), optimizer=partial(SAM, base="lion"))


def test_whoever_looks_amid_an_interval_finds_a_gradient_of_the_step_before() -> None:
    monitor, looked = Monitor(), []

    class Looks(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
            monitor.look(trainer)
            looked.append(trainer.global_step)

    with pytest.raises(TrainingStoppedError, match=r"^the gradient is not finite at step 4,"):
        fit(Infinite(4), monitor, Looks(), optimizer=Lion)
    assert looked == [1, 2, 3, 4]


def test_looking_twice_asks_the_device_once() -> None:
    looked = []

    class Looks(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
            monitor.look(trainer)
            monitor.look(None)  # type: ignore[arg-type] - there is nothing to be asked of it
            looked.append(trainer.global_step)

    monitor = Monitor()
    fit(Looks(), steps=2)  # it takes no part yet
    fit(monitor, Looks(), steps=2)
    assert looked == [1, 2, 1, 2]


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        real = getattr(Tensor, name)

        def noted(self: Tensor, real: Any = real, name: str = name) -> Any:
            if self.ndim <= 1 and not self.requires_grad:
                read.append((here[0], name))
            return real(self)

        monkeypatch.setattr(Tensor, name, noted)
    here = [0]

    class Where(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
            here[0] = trainer.global_step + 1

        def on_train_epoch_end(self, trainer: L.Trainer, *rest: Any) -> None:
            here[0] = -1

    fit(Where(), Monitor(), steps=9)
    # at the first step it logs; at the ninth, a validation follows
    assert {step for step, _ in read} & set(range(2, 9)) == set()
    assert 1 in {step for step, _ in read}


def test_a_step_that_the_loss_scaler_leaves_out_is_counted_and_does_not_stop() -> None:
    monitor = Monitor()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    fit(monitor, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], steps=20, log_every_n_steps=10)
    assert 0 < monitor.watch.skipped < 10


def test_a_loss_scaler_that_finds_no_scale_stops() -> None:
    class Always(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            next(pl_module.parameters()).grad.fill_(math.nan)

    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(TrainingStoppedError, match=r"^11 steps in a row .*, the last at step 10, where"):
        fit(Always(), Monitor(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)], steps=20)


def test_the_norm_of_half_precision_gradients_does_not_overflow_where_they_do_not() -> None:
    monitor = Monitor()

    class Large(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            for p in pl_module.parameters():
                p.grad.fill_(6e4)

    fit(Large(), monitor, precision="16-true", lr=1e-9)
    assert monitor.watch.skipped == 0


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"non_finite": "skp"}, r"non_finite=skp: there is no such policy; did you mean skip\? There are: skip, stop"),
        ({"max_skipped_in_row": 0}, "max_skipped_in_row must be at least 1, got 0"),
    ],
)
def test_what_is_none_is_refused(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Monitor(**keywords)

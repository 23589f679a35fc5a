"""What training itself logs, and the watch over numbers that are no longer finite."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from stepsize.errors import TrainingStoppedError
from stepsize.lr_scheduler import ScheduledLR

_CURVE_POINTS = 200  # enough for a smooth line; each costs 50 microseconds to write
_WATCH_EVERY = 100  # steps between two looks at the losses where nothing is to be logged


class Monitor(L.Callback):
    """Logs, at the first optimizer step and every `log_every_n_steps`, with the step as x axis, what follows.

    `train/loss`, mean since the last time, over all processes, and once more at the end; `lr/<group>`;
    `optim/grad_norm`, the L2 norm of the gradient before clipping; `optim/update_ratio`, ‖w after the step − w‖ / ‖w‖.
    At the start, `schedule/multiplier` over the whole run, each value where the step that takes it has been taken.
    Losses stay on the device until then: logging each would cost more than a small network's step.

    Raises:
        TrainingStoppedError: a loss was not finite; found when the losses are next read, which is always before a
            checkpoint is written.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._known: list[tuple[int, int]] = []  # number of losses kept so far, and the optimizer step then
        self._measured: list[nn.Parameter] = []
        self._before: list[Tensor] = []
        self._metrics: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the schedule's curve."""
        self._known = [(0, trainer.global_step)]
        self._every: int = trainer.log_every_n_steps or _WATCH_EVERY  # type: ignore[attr-defined]
        self._logger = trainer.logger if trainer.log_every_n_steps else None  # type: ignore[attr-defined]
        scheduler = _scheduler(trainer)
        if self._logger is None or scheduler.horizon is None or trainer.global_step > 0:
            return
        stride = max(1, scheduler.horizon // _CURVE_POINTS)
        for step in sorted({*range(0, scheduler.horizon, stride), scheduler.horizon - 1}):
            self._logger.log_metrics({"schedule/multiplier": scheduler.schedule(step, scheduler.horizon)}, step + 1)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where the epoch begins: the accumulation before it may have been cut short."""
        self._known.append((len(self._losses), trainer.global_step))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradient, and keep the weights the step is to be compared with, where it is to be logged."""
        if not self._is_due(trainer.global_step + 1) or self._measured:
            return  # the second condition: where an optimizer calls its closure again, the first call counts
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._measured = parameters
        self._before = [p.detach().clone() for p in parameters]
        grad_norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._metrics = {f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups}
        self._metrics["optim/grad_norm"] = float(grad_norm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; at the end of a step that is to be logged, log."""
        self._losses.append(outputs["loss"])
        if not self._measured or not self._is_due(trainer.global_step):
            return
        moved = [p.detach() - before for p, before in zip(self._measured, self._before, strict=True)]
        self._metrics["optim/update_ratio"] = float(get_total_norm(moved) / get_total_norm(self._before))
        self._measured, self._before = [], []
        self._log(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the losses before a checkpoint could keep what they came from."""
        if self._losses:
            self._mean_loss(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at what the very last step made of the weights."""
        if not math.isfinite(trainer.callback_metrics["val/loss"]):
            raise TrainingStoppedError(_answer(trainer, "val/loss", trainer.global_step))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is left."""
        if self._losses:
            self._metrics = {}
            self._log(trainer)

    def _is_due(self, step: int) -> bool:
        return step % self._every == 0 or step == 1

    def _log(self, trainer: L.Trainer) -> None:
        self._metrics["train/loss"] = self._mean_loss(trainer)
        self._losses.clear()
        self._known = [(0, trainer.global_step)]
        trainer.callback_metrics["train/loss"] = torch.tensor(self._metrics["train/loss"])  # the progress bar's
        if self._logger is not None:
            self._logger.log_metrics(self._metrics, trainer.global_step)

    def _mean_loss(self, trainer: L.Trainer) -> float:
        """Mean of the losses kept; here alone the device and the other processes are waited for."""
        losses = torch.stack(self._losses) * trainer.accumulate_grad_batches  # Lightning divides each by their number
        mean = losses.mean()
        if trainer.world_size > 1:
            mean = trainer.strategy.reduce(mean, reduce_op="mean")
        if not math.isfinite(mean):
            finite = torch.isfinite(losses)
            first = finite.int().argmin() if not finite.all() else torch.tensor(len(losses) - 1, device=losses.device)
            broken = int(trainer.strategy.reduce(first, reduce_op="min") if trainer.world_size > 1 else first)
            known, step = max(noted for noted in self._known if noted[0] <= broken)
            step += (broken - known) // trainer.accumulate_grad_batches
            raise TrainingStoppedError(_answer(trainer, "the loss", step))
        return float(mean)


def _answer(trainer: L.Trainer, what: str, step: int) -> str:
    lr = max(float(lr) for lr in _scheduler(trainer).at(step))
    saved = getattr(trainer.checkpoint_callback, "last", None)
    saved = saved if saved is not None and saved.exists() else "none yet"
    return (
        f"{what} is not finite at step {step}, where lr was {lr:.3g}: lower optimizer.lr, lengthen the warmup, or set "
        f"trainer.gradient_clip_val=1; last good checkpoint: {saved}"
    )


def _scheduler(trainer: L.Trainer) -> ScheduledLR:
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, ScheduledLR)
    return scheduler

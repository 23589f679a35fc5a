"""What training itself logs, and the watch over numbers that are no longer finite."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from stepsize.callbacks.non_finite import GRADIENT, LOSS, Watch, not_finite
from stepsize.callbacks.skipping import Skipping
from stepsize.errors import TrainingStoppedError
from stepsize.lr_scheduler import ScheduledLR
from stepsize.schedules.observer import observer

_CURVE_POINTS = 200  # enough for a smooth line; each costs 50 microseconds to write
_WATCH_EVERY = 100  # steps between two looks at the losses where nothing is to be logged


class Monitor(L.Callback):
    """Logs, at the first optimizer step and every `log_every_n_steps`, with the step as x axis, what follows.

    `train/loss`, mean since the last time, over all processes, and once more at the end; `lr/<group>`;
    `optim/grad_norm`, the L2 norm of the gradient before clipping; `optim/update_ratio`, ‖w after the step − w‖ / ‖w‖;
    `optim/skipped_steps`, how many were not taken so far, once there is one. Of a step that was not taken no loss and
    no gradient is logged. At the start, `schedule/multiplier` over what is left of the run, each value where the step
    that takes it has been taken.

    Losses, and the gradient's norm at each step, stay on the device until then: logging each would cost more than a
    small network's step. They are also looked at before each validation and each checkpoint, so that none is written
    after a number that is not finite.

    Args:
        non_finite: what to do where a loss or a gradient's norm is not finite: "stop", or "skip" the step.
        max_skipped_in_row: steps in a row that may be left out before training stops, at least 1.

    Raises:
        TrainingStoppedError: a number was not finite, or too many steps in a row were left out.
        ValueError: an unknown policy, or max_skipped_in_row out of range.
    """

    def __init__(self, non_finite: str = "stop", max_skipped_in_row: int = 10) -> None:
        self.watch = Watch(non_finite, max_skipped_in_row)
        self._skipping = Skipping() if non_finite == "skip" else None
        self._trains = True
        self._device = torch.device("cpu")
        self._step = 0  # optimizer steps before the one that the present batch goes into
        self._losses: list[tuple[int, Tensor]] = []  # since the last log, each with its step
        self._measured: list[nn.Parameter] = []
        self._before: list[Tensor] = []
        self._metrics: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note what is needed where a checkpoint is loaded: whether to train on from it, and the device."""
        self._trains = stage == "fit"
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the schedule's curve, in a resumed run for the steps that are to come."""
        self._every: int = trainer.log_every_n_steps or _WATCH_EVERY  # type: ignore[attr-defined]
        self._logger = trainer.logger if trainer.log_every_n_steps else None  # type: ignore[attr-defined]
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, ScheduledLR)
        if self._logger is None or scheduler.horizon is None or observer(scheduler.schedule) is not None:
            return  # without an end, or by metrics that nobody knows yet, there is no curve to draw
        stride = max(1, scheduler.horizon // _CURVE_POINTS)
        for step in sorted({*range(0, scheduler.horizon, stride), scheduler.horizon - 1}):
            if step >= trainer.global_step:
                self._logger.log_metrics({"schedule/multiplier": scheduler.schedule(step, scheduler.horizon)}, step + 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the step that the batch goes into."""
        self._step = trainer.global_step
        if self._skipping is not None:
            self._skipping.begin_batch(pl_module)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Take the loss into account before the step that it may rule out."""
        if self._skipping is not None:
            self._skipping.see(loss)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradient; where it is to be logged, keep the weights that the step is to be compared with."""
        norm = _norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
        if self._skipping is not None:
            norm = self._skipping.judge(trainer, norm)
        self.watch.keep(self._step, GRADIENT, norm)
        # The second condition: where an optimizer calls its closure again, the first call counts.
        if self._is_due(self._step + 1) and not self._measured:
            self._measured = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._before = [p.detach().clone() for p in self._measured]
            self._metrics = {f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups}
            if math.isfinite(value := float(norm)):
                self._metrics["optim/grad_norm"] = value
        if self._skipping is not None:
            self._skipping.veto(pl_module, optimizer, norm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; at the end of a step that is to be logged, log."""
        self._losses.append((self._step, outputs["loss"]))
        self.watch.keep(self._step, LOSS, outputs["loss"])
        if not self._measured or not self._is_due(trainer.global_step):
            return
        moved = [p.detach() - before for p, before in zip(self._measured, self._before, strict=True)]
        self._metrics["optim/update_ratio"] = float(get_total_norm(moved) / get_total_norm(self._before))
        self._measured, self._before = [], []
        self._log(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before a checkpoint could keep what the losses came from."""
        self.look(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at what the very last step made of the weights."""
        if not math.isfinite(trainer.callback_metrics["val/loss"]):
            raise TrainingStoppedError(not_finite(trainer, "val/loss", trainer.global_step))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is left."""
        if self._losses:
            self._metrics = {}
            self._log(trainer)
        if self._skipping is not None:
            self._skipping.end(trainer.optimizers[0])

    def look(self, trainer: L.Trainer) -> None:
        """Look at every loss and gradient since the last time, in all processes; called before each checkpoint.

        Raises:
            TrainingStoppedError: training is not to go on.
        """
        skipped = self.watch.look(trainer)
        if skipped:
            self._losses = [(step, loss) for step, loss in self._losses if step not in skipped]

    def state_dict(self) -> dict[str, int]:
        """The counts of steps that were not taken, up to the last look."""
        return {"skipped_steps": self.watch.skipped, "skipped_in_row": self.watch.in_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over what `state_dict` returned, unless it is a checkpoint that is tested."""
        if self._trains:
            self.watch.skipped, self.watch.in_row = state_dict["skipped_steps"], state_dict["skipped_in_row"]

    def process_state(self) -> dict[str, Any]:
        """The losses since the last log, which are those of this process alone."""
        losses = [loss for _, loss in self._losses]
        return {"steps": [step for step, _ in self._losses], "losses": torch.stack(losses).cpu() if losses else None}

    def load_process_state(self, state: dict[str, Any]) -> None:
        """Take over what `process_state` returned."""
        losses = state["losses"].to(self._device).unbind() if state["steps"] else ()
        self._losses = list(zip(state["steps"], losses, strict=True))

    def _is_due(self, step: int) -> bool:
        return step % self._every == 0 or step == 1

    def _log(self, trainer: L.Trainer) -> None:
        self.look(trainer)
        if self._losses:
            # Lightning divides each loss by the number of those that are accumulated.
            mean = (torch.stack([loss for _, loss in self._losses]) * trainer.accumulate_grad_batches).mean()
            if trainer.world_size > 1:
                mean = trainer.strategy.reduce(mean, reduce_op="mean")
            self._metrics["train/loss"] = float(mean)
            trainer.callback_metrics["train/loss"] = torch.tensor(float(mean))  # the progress bar's
            self._losses = []
        if self.watch.skipped:
            self._metrics["optim/skipped_steps"] = self.watch.skipped
        if self._logger is not None and self._metrics:
            self._logger.log_metrics(self._metrics, trainer.global_step)


def _norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm of all gradients as one vector, on their device: half the time of torch's `get_total_norm`."""
    has_16_bits = gradients[0].dtype.itemsize == 2  # in float16 the norm may overflow where no gradient does
    norms = torch._foreach_norm(gradients, 2, torch.float32 if has_16_bits else None)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm

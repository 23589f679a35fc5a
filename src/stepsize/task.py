"""The LightningModule: loss, metrics, and the optimizer with its schedule."""

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from stepsize.callbacks.averaged_weights import AveragedWeights, averages
from stepsize.callbacks.skipping import StepSkippedError
from stepsize.errors import ConfigError
from stepsize.evaluations import CountedOnce
from stepsize.lr_scheduler import ScheduledLR
from stepsize.metrics import METRICS
from stepsize.param_groups import table
from stepsize.schedules.schedule import Schedule

log = logging.getLogger(__name__)


class Task(L.LightningModule):
    """Predict a class for each example, or for each token: cross entropy, and metrics that follow from its totals.

    Args:
        network: maps a batch x to logits, (B, classes) for classification or (B, T, classes) for language modelling.
        optimizer: makes the optimizer from parameter groups.
        schedule: multiplier of each group's lr as a function of (step, horizon).
        groups: of the network's parameters, as `param_groups` makes them.
        metrics: names from `METRICS`, logged beside the loss as "val/<name>" and "test/<name>".
        monitor: logged metric that a metric-driven schedule observes.
        horizon_from: "trainer", or "checkpoint" for a resumed run whose schedule keeps the horizon it began with
            although the run's length is another now; after it the multiplier stays at its end value.
        label_smoothing: share of the target spread over all classes, in [0, 1); in training only, so that val/loss
            is comparable (Szegedy et al., Rethinking the Inception Architecture, 2016, https://arxiv.org/abs/1512.00567).

    Raises:
        ValueError: horizon_from or label_smoothing out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: partial[Optimizer],
        schedule: Schedule,
        groups: Sequence[Mapping[str, Any]],
        metrics: Sequence[str] = ("accuracy",),
        *,
        monitor: str = "val/loss",
        horizon_from: str = "trainer",
        label_smoothing: float = 0.0,
    ) -> None:
        if horizon_from not in ("trainer", "checkpoint"):
            raise ValueError(f"horizon_from must be trainer or checkpoint, got {horizon_from}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        super().__init__()
        self.network: nn.Module = network
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.groups = groups
        self.metrics = ("loss", *metrics)
        self.monitor = monitor
        self.keeps_horizon = horizon_from == "checkpoint"
        self.label_smoothing = label_smoothing
        self._totals: list[Tensor] = []
        self._averaged = [AveragedWeights()] if averages(optimizer.func) else []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook's name 44 times a step; nn.Module's own way costs a microsecond each.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of a batch, a scalar on its device."""
        x, y = batch
        logits: Tensor = self.network(x)
        return F.cross_entropy(logits.flatten(0, -2), y.flatten(), label_smoothing=self.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the totals of the pass."""
        x, y = batch
        logits, y = self.network(x).flatten(0, -2).float(), y.flatten()
        loss = F.cross_entropy(logits, y, reduction="sum")
        correct = (logits.argmax(-1) == y).sum()
        self._totals.append(torch.stack([loss, correct.to(loss.dtype), loss.new_tensor(y.numel())]))

    test_step = validation_step

    # Lightning inspects the step's signature at every step; written down it takes 3 microseconds instead of 8.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        """Log the pass's metrics; exact over uneven batches and over several processes."""
        values = self.take_metrics("val")
        self._log_all(values)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ScheduledLR) and not self.trainer.sanity_checking:
            scheduler.observe(values[self.monitor])

    def on_test_epoch_end(self) -> None:
        """As for validation."""
        self._log_all(self.take_metrics("test"))

    def _log_all(self, values: dict[str, float]) -> None:
        # Lightning's own count lags a step behind where validation follows a step; "step" tells its loggers better.
        # The values are equal on all processes already, and Lightning wants to be told.
        self.log_dict(values | {"step": float(self.trainer.global_step)}, sync_dist=True)

    def take_metrics(self, stage: str) -> dict[str, float]:
        """The metrics of all batches since the last time, over all processes, as "<stage>/<name>"."""
        # Summed in double precision: a float32 count of tokens is exact only to 2^24.
        totals = torch.stack(self._totals).cpu().double().sum(0)
        self._totals.clear()
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum")
        loss, correct, count = totals.tolist()
        return {f"{stage}/{name}": METRICS[name].of(loss, correct, count) for name in self.metrics}

    def configure_optimizers(self) -> Any:
        """The optimizer over its groups, and the schedule over the trainer's horizon, once per optimizer step."""
        if self.trainer.is_global_zero:
            log.info("%s", table(self.groups))
        # By name: a strategy may have put others in the place of the parameters that were grouped, such as flat shards.
        parameters = dict(self.network.named_parameters())
        named = [{**g, "params": [(name, parameters[name]) for name, _ in g["params"]]} for g in self.groups]
        horizon = self.horizon()
        if self._averaged and horizon and self.schedule(horizon - 1, horizon) < self.schedule(horizon // 2, horizon):
            log.warning("the optimizer averages instead of decaying, but the schedule decays: take schedule=constant")
        takes_horizon = "horizon" in inspect.signature(self.make_optimizer.func).parameters
        optimizer = self.make_optimizer(named, **({"horizon": horizon} if takes_horizon else {}))
        try:
            scheduler = ScheduledLR(optimizer, self.schedule, horizon, keeps_horizon=self.keeps_horizon)
        except ValueError as error:  # known only now: a warmup longer than the run, or a run without an end
            raise ConfigError(f"schedule: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Say what a resumed run's schedule follows, where that is another horizon than the one it began with."""
        scheduler = self.lr_schedulers()
        if not isinstance(scheduler, ScheduledLR) or not self.trainer.is_global_zero:
            return
        steps, before = self.horizon(), scheduler.horizon_before
        if scheduler.horizon != before:
            log.info("the schedule's horizon was %s steps and is now %s", before, scheduler.horizon)
        elif before != steps:
            log.info("the schedule keeps its horizon of %s steps, though the run now has %s", before, steps)

    def configure_callbacks(self) -> list[L.Callback]:
        """One that has the average of the weights evaluated, where the optimizer has one."""
        return [c for c in self._averaged if c not in self.trainer.callbacks]  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the average; Lightning does not ask callbacks where the weights alone are saved."""
        for averaged in self._averaged:
            averaged.write_average(self.trainer, checkpoint)

    def horizon(self) -> int | None:
        """Optimizer steps of the whole run, with accumulation and on all devices; None where it has no end."""
        try:
            steps = self.trainer.estimated_stepping_batches
        except ValueError as error:  # the first time that Lightning looks at the length of the data
            raise ConfigError(f"trainer: {error}") from error
        return int(steps) if 0 <= steps < math.inf else None

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """As Lightning's, but a batch counts once where the optimizer evaluates it several times, or not at all."""
        with suppress(StepSkippedError):
            optimizer.step(closure=CountedOnce(optimizer_closure, self.network))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, and under bf16 beside a fused optimizer, which it refuses for no reason."""
        if not gradient_clip_val:
            return
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            Precision.clip_gradients(
                plugin, optimizer, gradient_clip_val, GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

"""The best and the last value of every validation metric over a run."""

import math
from typing import Any

import lightning as L
import torch


class Objective(L.Callback):
    """Remembers, for a metric, its best value, the optimizer step of it, and the last values of all metrics.

    Args:
        metric: tag of a validation metric, such as "val/loss".
        mode: "min" or "max".
    """

    def __init__(self, metric: str, mode: str) -> None:
        self.metric = metric
        self.mode = mode
        self.best = math.inf if mode == "min" else -math.inf
        self.step: int | None = None
        self.improved = False
        self.pruned_at: int | None = None  # the step at which a sweep ended the run
        self.at_best: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As at a batch's end, where a run is resumed between its last step and its last validation."""
        # For callbacks that look at them at the end of the epoch, such as early stopping; Lightning saves none.
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self.last.items()})
        self._end_at_max_steps(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the run's end validated where `max_steps` falls inside an epoch; Lightning would end without."""
        self._end_at_max_steps(trainer)

    @staticmethod
    def _end_at_max_steps(trainer: L.Trainer) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what has just been logged; a value that is no number is never the best."""
        if trainer.sanity_checking:
            return
        self.last = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        value = self.last[self.metric]
        self.improved = value < self.best if self.mode == "min" else value > self.best
        if self.improved:
            self.best, self.step, self.at_best = value, trainer.global_step, dict(self.last)

    def state_dict(self) -> dict[str, object]:
        """Plain data, so that a resumed run still knows its best."""
        known = ("metric", "best", "step", "at_best", "last")
        return {name: getattr(self, name) for name in known}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over what `state_dict` returned; nothing where it is of another metric, whose best is no best here."""
        if state_dict["metric"] == self.metric:
            self.__dict__.update(state_dict)

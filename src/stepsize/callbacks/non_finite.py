"""The watch over losses and gradients that are not finite: kept on the device, and looked at together."""

import logging
from contextlib import suppress

import lightning as L
import torch
from torch import Tensor

from stepsize.errors import CheckpointError, TrainingStoppedError, suggestion
from stepsize.lr_scheduler import ScheduledLR
from stepsize.resume.checkpoint_files import CheckpointFiles

log = logging.getLogger(__name__)

POLICIES = ("stop", "skip")
# What is kept, in the order in which it is named where both are not finite.
LOSS, GRADIENT = range(2)
_NAMES = ("the loss", "the gradient")


class Watch:
    """Counts the steps that were not taken, and raises where training is not to go on.

    With "stop" that is at the first loss or gradient that is not finite, and with "skip" after too many steps in a row
    that `Skipping` has not taken. Under 16-mixed it is the loss scaler that takes no step with such a gradient, for so
    it finds its scale: with "stop", its steps are counted as those of `Skipping` are.

    Args:
        policy: "stop" or "skip".
        max_skipped_in_row: steps in a row that may be left out, at least 1.

    Raises:
        ValueError: an unknown policy, or max_skipped_in_row out of range.
    """

    def __init__(self, policy: str, max_skipped_in_row: int) -> None:
        if policy not in POLICIES:
            raise ValueError(f"non_finite={policy}: there is no such policy; {suggestion(str(policy), POLICIES)}")
        if max_skipped_in_row < 1:
            raise ValueError(f"max_skipped_in_row must be at least 1, got {max_skipped_in_row}")
        self.policy = policy
        self.max_in_row = max_skipped_in_row
        self.skipped = 0
        self.in_row = 0
        self._unseen: list[tuple[int, int, Tensor]] = []

    def keep(self, step: int, what: int, value: Tensor) -> None:
        """Have a number looked at later.

        Args:
            step: optimizer steps before the one that it belongs to.
            what: LOSS or GRADIENT.
            value: a scalar; the norm of a gradient.
        """
        self._unseen.append((step, what, value))

    def look(self, trainer: L.Trainer) -> set[int]:
        """Look at all that was kept since the last time, in every process; returns the steps that were not taken.

        Raises:
            TrainingStoppedError: training is not to go on; in all processes.
        """
        if not self._unseen:
            return set()
        unseen, self._unseen = self._unseen, []
        finite = torch.stack([value for *_, value in unseen]).isfinite()
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce(finite.int(), reduce_op="min")
        broken = {
            (step, what) for (step, what, _), is_finite in zip(unseen, finite.tolist(), strict=True) if not is_finite
        }
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        excused = (LOSS, GRADIENT) if self.policy == "skip" else (GRADIENT,) if is_scaled else ()
        fatal = [(step, what) for step, what in broken if what not in excused]
        if fatal:
            step, what = min(fatal)
            raise TrainingStoppedError(not_finite(trainer, _NAMES[what], step))
        self._count(trainer, {step: (step, GRADIENT) in broken for step, what, _ in unseen if what == GRADIENT})
        return {step for step, what in broken if what == GRADIENT}

    def _count(self, trainer: L.Trainer, was_skipped: dict[int, bool]) -> None:
        for step, skipped in was_skipped.items():
            if skipped and not self.skipped and trainer.is_global_zero:
                log.warning("loss or gradient not finite: step %d is not taken; optim/skipped_steps will count", step)
            self.skipped += skipped
            self.in_row = self.in_row + 1 if skipped else 0
            if self.in_row > self.max_in_row:
                what = f"{self.in_row} steps in a row had a loss or gradient that is not finite, the last"
                raise TrainingStoppedError(_answer(trainer, what, step, "lower optimizer.lr or lengthen the warmup"))


def not_finite(trainer: L.Trainer, what: str, step: int) -> str:
    """One line that says what is not finite, where, what to do, and what there is to go on from."""
    remedy = (
        "lower optimizer.lr, lengthen the warmup, set trainer.gradient_clip_val=1, or leave such steps out with "
        "callbacks.monitor.non_finite=skip"
    )
    return _answer(trainer, f"{what} is not finite", step, remedy)


def _answer(trainer: L.Trainer, what: str, step: int, remedy: str) -> str:
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, ScheduledLR)
    lr = max(float(lr) for lr in scheduler.at(step))
    checkpoint = trainer.checkpoint_callback
    files, saved = getattr(checkpoint, "files", None), getattr(checkpoint, "last", None)
    if isinstance(files, CheckpointFiles):
        with suppress(CheckpointError):  # the last good one is then the one before
            files.wait()
    saved = saved if saved is not None and saved.exists() else "none yet"
    return f"{what} at step {step}, where lr was {lr:.3g}: {remedy}; last good checkpoint: {saved}"

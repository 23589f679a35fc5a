"""Ends a run in order when a signal asks for it: at the next step, saved, and with the signal's exit code."""

from typing import Any

import lightning as L
import torch

from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.errors import RunInterrupted
from stepsize.resume.agreement import Agreement
from stepsize.resume.signals import Signals


class Interruption(L.Callback):
    """Saves and raises `RunInterrupted` at the step boundary after a signal; within an evaluation, at its next batch.

    Args:
        signals: says whether a signal came.

    Raises:
        RunInterrupted: a signal came.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._steps = Agreement(signals.trainer)

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Stop all processes at the same step."""
        number = self._steps.greatest(self.signals.received)
        if number:
            self._save_and_stop(trainer, number)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find out in how many batches all processes can meet."""
        self._begin(trainer, trainer.num_val_batches)

    def on_validation_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        """Stop; a resumed run begins this validation anew. Amid an accumulation, leave it to the next step."""
        number = self._asked()
        if number and not trainer.sanity_checking and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._save_and_stop(trainer, number)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find out in how many batches all processes can meet."""
        self._begin(trainer, trainer.num_test_batches)

    def on_test_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        """Stop; what training has saved is all there is to save, and a resumed run begins this test anew."""
        number = self._asked()
        if number:
            checkpoint, saved = trainer.checkpoint_callback, None
            if isinstance(checkpoint, Checkpoint) and checkpoint.last.exists():
                saved = checkpoint.last
            raise RunInterrupted(number, trainer.global_step, saved)

    def _begin(self, trainer: L.Trainer, batches: list[int | float]) -> None:
        self._batches = Agreement(trainer)  # an evaluation's batches are faster than steps
        self._shared = sum(batches)
        if trainer.world_size > 1:
            known = self._shared if self._shared < float("inf") else 0  # of a stream, each process has its own length
            fewest = torch.tensor(known, device=trainer.strategy.root_device)
            self._shared = int(trainer.strategy.reduce(fewest, reduce_op="min"))

    def _asked(self) -> int:
        self._shared -= 1
        return self._batches.greatest(self.signals.received) if self._shared >= 0 else 0

    def _save_and_stop(self, trainer: L.Trainer, number: int) -> None:
        checkpoint, saved = trainer.checkpoint_callback, None
        if isinstance(checkpoint, Checkpoint):
            checkpoint.save(trainer)
            checkpoint.files.wait()
            saved = checkpoint.last
        raise RunInterrupted(number, trainer.global_step, saved)

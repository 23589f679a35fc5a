"""Checkpoints: `last.ckpt` and the one before it, `best.ckpt` by the objective; plain dicts and tensors only."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

import stepsize
from stepsize.callbacks.hooks import Watches
from stepsize.callbacks.objective import Objective
from stepsize.errors import CheckpointError
from stepsize.resume.agreement import Agreement
from stepsize.resume.checkpoint_files import FORMAT, CheckpointFiles


class Checkpoint(LightningCheckpoint):
    """Saves after every validation, and in between as often as asked, what `torch.load(weights_only=True)` loads.

    A file appears whole or not at all, and the one before it stays as `previous.ckpt`. Training goes on while a copy of
    the state is written. Lightning's ModelCheckpoint writes its "last" only where the monitored metric has improved.

    Args:
        dirpath: folder of the checkpoints.
        config: the composed config as plain data.
        words: what was typed to compose it.
        objective: says whether the validation that has just ended was the best.
        every_n_steps: optimizer steps that a run may lose at any moment of death, at least 1. A checkpoint is begun at
            every half of it; training waits where one takes longer to write than the other half. None for none
            between validations.
        every_minutes: as every_n_steps, in minutes, above 0; may be a fraction.

    Raises:
        ValueError: every_n_steps or every_minutes out of range.
    """

    def __init__(
        self,
        dirpath: str | Path,
        config: Mapping[str, Any],
        words: Sequence[str],
        objective: Objective,
        *,
        every_n_steps: int | None = None,
        every_minutes: float | None = 10.0,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"every_minutes must be above 0, got {every_minutes}")
        self.last = Path(dirpath) / "last.ckpt"
        self.best = Path(dirpath) / "best.ckpt"
        self.config = config
        self.words = words
        self.objective = objective
        self.every_n_steps = every_n_steps
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.files = CheckpointFiles()
        self._begun_at = time.monotonic()
        self._is_owed = False  # whether a validation amid an accumulation has put its checkpoint off to the step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write through `files`, into a folder that is made now and never again."""
        trainer.strategy.checkpoint_io = self.files
        self._clock = Agreement(trainer)
        if stage != "fit" or not trainer.is_global_zero:
            return
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.last.parent} cannot be made: {error.strerror}") from error

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here: what has been trained before is on the disk."""
        self.files.written_step = trainer.global_step
        self._begun_at = self.files.written_at = time.monotonic()

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Save where it is time for it, and wait where too much would be lost."""
        self.files.look()
        due, late = self._is_owed or _ends(trainer), False
        if self.every_n_steps is not None:
            due = due or trainer.global_step % max(1, self.every_n_steps // 2) == 0
        if self.every_seconds is not None:
            half_over = time.monotonic() - self._begun_at >= self.every_seconds / 2
            due = bool(self._clock.greatest(int(half_over))) or due
        if due:
            self.save(trainer)
        if self.every_n_steps is not None:
            late = trainer.global_step - self.files.written_step >= self.every_n_steps
        if self.every_seconds is not None:
            late = late or time.monotonic() - self.files.written_at >= self.every_seconds
        if late:
            self.files.wait()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; Lightning calls the callbacks that save after all the others."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self.save(trainer, best=self.objective.improved)
            return
        # Gradients are not saved, so the run goes on from the next step; the weights are those of the last one.
        self._is_owed = True
        if self.objective.improved:
            trainer.save_checkpoint(self.best, weights_only=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the last one on the disk before anybody reads it."""
        self.files.wait()
        trainer.strategy.barrier("checkpoint")

    def save(self, trainer: L.Trainer, *, best: bool = False) -> None:
        """Write `last.ckpt`, and keep the one before; all processes take part.

        Args:
            trainer: what it knows is saved.
            best: whether this is `best.ckpt` too.

        Raises:
            TrainingStoppedError: a number is no longer finite; nothing has been written.
            CheckpointError: the one before could not be written.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Watches):
                callback.look(trainer)
        for logger in trainer.loggers:
            logger.save()  # nothing of what led here is lost with the process
        self.files.names = {"before": self.last.with_name("previous.ckpt")} | ({"too": self.best} if best else {})
        trainer.save_checkpoint(self.last, weights_only=False)
        self._begun_at = time.monotonic()
        self._is_owed = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what says by itself how the checkpoint was made."""
        checkpoint["stepsize"] = {
            "format": FORMAT,
            "version": stepsize.__version__,
            "config": self.config,
            "words": list(self.words),
            "is_between_steps": trainer.fit_loop.epoch_loop._should_accumulate(),
            "stops": trainer.should_stop and trainer.global_step != trainer.max_steps,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """End a run that another callback had ended, such as early stopping, unless that one is another now."""
        ours = checkpoint["stepsize"]
        trainer.should_stop = ours.get("stops", False) and ours["config"].get("callbacks") == self.config["callbacks"]


def _ends(trainer: L.Trainer) -> bool:
    """Whether this is the last step of all epochs, and no validation follows after which it would be saved."""
    if not trainer.is_last_batch:
        return False
    loop = trainer.fit_loop
    if trainer.current_epoch + 1 != loop.max_epochs:
        return False
    assert loop._data_fetcher is not None
    return not loop.epoch_loop._should_check_val_fx(loop._data_fetcher)

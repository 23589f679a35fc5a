"""Lightning's training loops; a resumed run goes on with the rest of the iteration in which its checkpoint was written.

An iteration is a batch, the optimizer step that it may end, and the validation that may follow. Lightning 2.6 guesses
from its counters where in it a checkpoint was written, and guesses wrong: a checkpoint of an epoch's last step makes it
leave out the validation. Here the checkpoint says so itself.
"""

from typing import Any

import lightning as L
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch import distributed

from stepsize.callbacks.hooks import ActsOnSteps, KnowsItsProcess
from stepsize.resume import random_state


def install(trainer: L.Trainer) -> None:
    """Put the loops below in the place of the trainer's own."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    trainer.fit_loop = FitLoop(trainer, min_epochs=fit.min_epochs, max_epochs=fit.max_epochs)
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, min_steps=epoch.min_steps, max_steps=epoch.max_steps)


class FitLoop(_FitLoop):
    """The loop over epochs."""

    @property
    def done(self) -> bool:
        """Whether to end; never before what a checkpoint has interrupted has come to its end."""
        return not self.restarting and super().done


class ValidationLoop(_EvaluationLoop):
    """The validation that may follow a training batch."""

    ended = False  # whether the validation that follows the latest batch has been

    def run(self) -> Any:
        """Validate, and keep the random state with which that began."""
        self.random = random_state.current(self.trainer.strategy.root_device)
        return super().run()

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = True
        super()._on_evaluation_end(*args, **kwargs)


class EpochLoop(_TrainingEpochLoop):
    """The loop over the batches of an epoch."""

    val_loop: ValidationLoop

    def __init__(self, trainer: L.Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.val_loop = ValidationLoop(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, False, False)
        self._acting: list[ActsOnSteps] = []
        self._resumed: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the epoch has ended; never before what a checkpoint has interrupted has come to its end."""
        return not self.restarting and super().done

    def update_restart_stage(self) -> None:
        """Guess nothing."""

    def reset(self) -> None:
        """Begin an epoch, or go on within one with the counters as they were saved."""
        self._acting = [c for c in self.trainer.callbacks if isinstance(c, ActsOnSteps)]
        if not self.restarting:
            super().reset()

    def advance(self, data_fetcher: Any) -> None:
        """Train on a batch; at first in a resumed run, only restore what that batch had left."""
        if not self.restarting:
            self.val_loop.ended = False
            super().advance(data_fetcher)
            return
        self._skip_next_val = self.val_loop.ended
        self.val_loop.restarting = False  # a validation that was interrupted begins again
        validated = self.val_loop.batch_progress
        validated.total.reset_on_restart()
        if validated.current.ready > validated.current.completed:  # within it, so what it did does not count
            validated.total.increment_by(-validated.current.completed)
        self._restore()

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Let callbacks act on the step, then validate where that is due."""
        if not self.restarting and not self._should_accumulate():
            for callback in self._acting:
                callback.on_step_end(self.trainer)
        super().on_advance_end(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        """Do nothing: Lightning has all processes wait for each other here at every step; `signals` does it rarely."""

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Return where in the iteration this is, and the state of each process; all processes take part."""
        validates = self.trainer.validating and not self.val_loop.ended
        here = {
            "random": self.val_loop.random if validates else random_state.current(self.trainer.strategy.root_device),
            "callbacks": {c.state_key: c.process_state() for c in self._own_state()},
        }
        return super().on_save_checkpoint() | {
            "validated": self.val_loop.ended,
            "processes": _gathered(here, self.trainer.world_size),
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Take over what was saved; random states are put back at the very moment of going on."""
        super().on_load_checkpoint(state_dict)
        self.val_loop.ended = state_dict.get("validated", True)
        processes = state_dict.get("processes", [])
        self._scale(len(processes) or self.trainer.world_size)
        rank = self.trainer.global_rank
        self._resumed = processes[rank] if rank < len(processes) else None

    def _scale(self, before: int) -> None:
        """Count the batches of this epoch in those of the present number of processes."""
        now, batches = self.trainer.world_size, self.batch_progress.current
        for name in vars(batches) if before != now else ():
            setattr(batches, name, -(-getattr(batches, name) * before // now))

    def _restore(self) -> None:
        if self._resumed is None:
            return
        for callback in self._own_state():
            state = self._resumed["callbacks"].get(callback.state_key)
            if state is not None:
                callback.load_process_state(state)
        random_state.restore(self._resumed["random"], self.trainer.strategy.root_device)
        self._resumed = None

    def _own_state(self) -> list[Any]:
        return [c for c in self.trainer.callbacks if isinstance(c, KnowsItsProcess)]


def _gathered(here: dict[str, Any], world_size: int) -> list[dict[str, Any]]:
    if world_size == 1:
        return [here]
    everywhere: list[Any] = [None] * world_size
    distributed.all_gather_object(everywhere, here)
    return everywhere

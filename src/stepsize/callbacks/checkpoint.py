"""Checkpoints: `last.ckpt` after every validation, `best.ckpt` by the objective; plain dicts and tensors only."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

import stepsize
from stepsize.callbacks.objective import Objective


class Checkpoint(LightningCheckpoint):
    """Saves what `torch.load(weights_only=True)` loads, with the composed config inside.

    A file appears whole or not at all, and the one before it stays until then. Lightning's ModelCheckpoint writes its
    "last" only where the monitored metric has improved; this one always does.

    Args:
        dirpath: folder of the checkpoints.
        config: the composed config as plain data.
        objective: says whether the validation that has just ended was the best.
    """

    def __init__(self, dirpath: str | Path, config: Mapping[str, Any], objective: Objective) -> None:
        self.last = Path(dirpath) / "last.ckpt"
        self.best = Path(dirpath) / "best.ckpt"
        self.config = config
        self.objective = objective

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; Lightning calls the callbacks that save after all the others."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        partial = self.last.with_suffix(".partial")
        if trainer.is_global_zero:
            partial.unlink(missing_ok=True)  # a run killed below leaves a second name for the last checkpoint
        trainer.save_checkpoint(partial)  # all processes take part, and wait for each other
        if trainer.is_global_zero:
            os.replace(partial, self.last)
            if self.objective.improved:
                _same_file(self.last, partial)
                os.replace(partial, self.best)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the config and our version, so that a checkpoint says by itself how it was made."""
        checkpoint["stepsize"] = {"version": stepsize.__version__, "config": self.config}


def _same_file(source: Path, target: Path) -> None:
    """A second name for a file that is only ever replaced; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

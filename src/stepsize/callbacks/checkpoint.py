"""Checkpoints: `last.ckpt` after every validation, `best.ckpt` by the objective; plain dicts and tensors only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

import stepsize


class Checkpoint(ModelCheckpoint):
    """Saves what `torch.load(weights_only=True)` loads, with the composed config inside.

    Args:
        dirpath: folder of the checkpoints.
        config: the composed config as plain data.
        monitor: logged metric that decides which is best.
        mode: "min" or "max".
    """

    def __init__(
        self, dirpath: str | Path, config: Mapping[str, Any], *, monitor: str = "val/loss", mode: str = "min"
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.config = config

    def on_train_batch_end(self, *args: Any) -> None:
        """Nothing is saved between validations unless a number of steps or a time was given."""
        if self._every_n_train_steps or self._train_time_interval:
            super().on_train_batch_end(*args)

    @property
    def state_key(self) -> str:
        """Lightning spells all arguments out here, six times a step."""
        return "Checkpoint"

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the config and our version, so that a checkpoint says by itself how it was made."""
        checkpoint["stepsize"] = {"version": stepsize.__version__, "config": self.config}

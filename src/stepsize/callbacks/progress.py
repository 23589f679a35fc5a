"""A progress bar that is drawn sparsely and shows the loss and the latest validation."""

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """tqdm over the batches of an epoch, where there is a terminal to draw it on.

    Args:
        refresh_rate: batches between two drawings; drawing at each would cost more than a small network's step.
    """

    def __init__(self, *, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate)

    @property
    def is_disabled(self) -> bool:
        """Whether nothing is drawn: not in a file, where each drawing would be one more line."""
        return super().is_disabled or not sys.stdout.isatty()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The training loss and every validation metric as they were last logged, to four digits."""
        return {k: f"{float(v):.4g}" for k, v in trainer.callback_metrics.items() if k != "step"}

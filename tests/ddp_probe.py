"""A callback for a test: each process writes what it saw and what it ended with."""

from pathlib import Path
from typing import Any

import lightning as L
import torch


class Probe(L.Callback):
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.seen: list[torch.Tensor] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(batch[0].flatten(1).double().sum(1))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = {k: v.clone() for k, v in pl_module.state_dict().items()}
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        told = {"weights": weights, "seen": torch.cat(self.seen), "metrics": metrics, "steps": trainer.global_step}
        told["lr"] = trainer.optimizers[0].defaults["lr"]
        torch.save(told, self.folder / f"rank{trainer.global_rank}.pt")

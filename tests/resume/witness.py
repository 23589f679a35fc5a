"""What watches a run, for tests: every training batch, every logged number."""

import hashlib
import json
import os
import random
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from stepsize.resume import random_state


class Seen(NamedTuple):
    """What happened with one training batch.

    Args:
        epoch, batch: its place, both from 0.
        step: optimizer steps before it.
        content: digest of its tensors.
        drawn: what a user's own callback drew from Python's, NumPy's and torch's generators at its beginning.
        lr: of each group, for the step that it went into.
        loss: of it.
    """

    epoch: int
    batch: int
    step: int
    content: str
    drawn: tuple[float, float, float]
    lr: tuple[float, ...]
    loss: float

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the run."""
        return self.epoch, self.batch


class Witness(L.Callback):
    """Writes down what happens with each training batch, and draws random numbers meanwhile."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.end: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        content = hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in batch)).hexdigest()
        device = trainer.strategy.root_device  # torch.rand is what an augmentation or a noise layer would call
        drawn = random.random(), np.random.random(), torch.rand((), device=device).item()
        lr = tuple(float(group["lr"]) for group in trainer.optimizers[0].param_groups)
        self._begun = (trainer.current_epoch, batch_idx, trainer.global_step, content, drawn, lr)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(Seen(*self._begun, float(outputs["loss"])))

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        end = {
            "weights": task.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "random": random_state.current(trainer.strategy.root_device),
        }
        self.end = deepcopy(end)


class Log(Logger):
    """Keeps what was logged: the last value of each tag at each step."""

    name, version = "log", ""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[str, int | None], float] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.values |= {(tag, step): float(value) for tag, value in metrics.items()}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Writing(Witness):
    """Appends a line for each batch to `rank<number>.jsonl`; the last process gets SIGTERM at one place.

    Args:
        folder: of the files.
        epoch, batch: where the signal comes, both from 0; nowhere, where the epoch is -1.
    """

    def __init__(self, folder: str, epoch: int = -1, batch: int = 0) -> None:
        super().__init__()
        self.folder, self.place = Path(folder), (epoch, batch)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(self.seen[-1]) + "\n")
        if self.seen[-1].place == self.place and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

"""A callback for a test: holds a run at a place, by which the test knows it to be there, until a file vanishes."""

import ctypes
import time
from pathlib import Path
from typing import Any

import lightning as L


class Hold(L.Callback):
    """Touches `FOLDER/here<rank>` at a place, and waits for `FOLDER/hold` to vanish.

    Args:
        folder: of these files.
        step: optimizer steps taken before the place; None for any.
        hook: which of Lightning's the place is in.
        batch: of the epoch or evaluation; None for any.
    """

    def __init__(
        self, folder: str, step: int | None = None, hook: str = "on_train_batch_start", batch: int | None = None
    ) -> None:
        self.folder, self.step, self.batch = Path(folder), step, batch
        setattr(self, hook, self.hold)

    def hold(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any, **named: Any) -> None:
        if self.step in (None, trainer.global_step) and self.batch in (None, *rest[1:2]):
            (self.folder / f"here{trainer.global_rank}").touch()
            while (self.folder / "hold").exists():
                time.sleep(0.005)


class Stuck(L.Callback):
    """Waits forever in one operation, from the sixth step on, after it has touched `FOLDER/here0`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == 5:
            (self.folder / "here0").touch()
            mutex, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            for _ in range(2):  # the second time, it waits for itself
                c.pthread_mutex_lock(mutex)

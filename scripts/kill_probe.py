"""What a run is doing at each moment, written where it is still to be read once the run has been killed.

`kill_test.py` adds the callback to the runs that it kills: +callbacks.probe={_target_:kill_probe.Probe,path:FILE}
"""

import mmap
import os
import threading
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import lightning as L

from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.resume.checkpoint_files import CheckpointFiles


class Activity(IntEnum):
    """What training does."""

    START = 0  # nothing new yet: imports, composing, building, loading
    STEP = 1
    VALIDATION = 2
    END = 3  # after the last step and validation, around the test
    TEST = 4


class Stage(IntEnum):
    """What becomes of a checkpoint."""

    NONE = 0
    COPY = 1  # in the training's own thread; the rest in the background
    WRITE = 2  # the temporary file
    SYNC = 3  # until it is on the disk
    NAME = 4  # the links and renames, until those are on the disk


class Board:
    """Whole numbers in a file that is mapped into memory; what is written is there also once its process was killed.

    Args:
        path: the file; made, with zeros, where there is none.
    """

    _FIELDS = ("activity", "stage", "resumed", "step", "begun", "written")

    def __init__(self, path: str | Path) -> None:
        with open(path, "ab") as file:
            file.truncate(8 * len(self._FIELDS))
        with open(path, "r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def __getitem__(self, field: str) -> int:
        return self._numbers[self._FIELDS.index(field)]

    def __setitem__(self, field: str, value: int) -> None:
        self._numbers[self._FIELDS.index(field)] = value

    @property
    def doing(self) -> tuple[Activity, Stage]:
        """What training does, and what becomes of a checkpoint."""
        return Activity(self["activity"]), Stage(self["stage"])

    def __str__(self) -> str:
        return ", ".join(f"{name} {self[name]}" for name in self._FIELDS)

    def clear(self) -> None:
        """Begin anew, with no step known: -1."""
        for field in self._FIELDS:
            self[field] = 0 if field in ("activity", "stage") else -1


class Probe(L.Callback):
    """Notes on the board: the activity, the stage of a checkpoint; and of the steps, the one that the run went on from,
    the latest that was taken, that of the latest `last.ckpt` begun, and of the latest on the disk.

    Args:
        path: the board's file.
    """

    def __init__(self, path: str) -> None:
        self.board = Board(path)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch the files as they are written."""
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, Checkpoint)
        if stage == "fit":
            _watch(checkpoint.files, checkpoint.last, self.board)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["step"] = self.board["resumed"] = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.board["activity"] = Activity.STEP

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Stepsize's own hook: all counters are at the step, which the checkpoint that may follow holds."""
        self.board["step"] = trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["activity"] = Activity.VALIDATION

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["activity"] = Activity.STEP

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["activity"] = Activity.END

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["activity"] = Activity.TEST

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.board["activity"] = Activity.END


def _watch(files: CheckpointFiles, last: Path, board: Board) -> None:
    """Note each stage as it begins; nothing else is changed, nor delayed."""
    save: Callable[..., None] = files.save_checkpoint
    write: Callable[..., None] = files._write
    sync = os.fsync

    def noted_save(checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        files.wait()  # as the original begins
        if Path(path) == last:
            board["begun"] = checkpoint["global_step"]
        board["stage"] = Stage.COPY
        save(checkpoint, path, storage_options)

    def noted_write(checkpoint: dict[str, Any], path: Path, names: Mapping[str, Path]) -> None:
        board["stage"] = Stage.WRITE
        write(checkpoint, path, names)
        if path == last:
            board["written"] = checkpoint["global_step"]
        board["stage"] = Stage.NONE

    def noted_sync(descriptor: Any) -> None:
        is_of_file = board["stage"] == Stage.WRITE and threading.current_thread() is not threading.main_thread()
        if is_of_file:
            board["stage"] = Stage.SYNC
        sync(descriptor)
        if is_of_file:
            board["stage"] = Stage.NAME

    files.save_checkpoint, files._write = noted_save, noted_write  # type: ignore[method-assign]
    os.fsync = noted_sync  # type: ignore[assignment]

"""The files of a run's checkpoints: each whole or absent, written beside the training, read without running code."""

import functools
import os
import pickle
import shutil
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from stepsize.errors import CheckpointError, ConfigError

FORMAT = 1  # of checkpoint["stepsize"]; a higher number is of a later version, which this one cannot read


class CheckpointFiles(CheckpointIO):
    """Lightning's plugin for files: copies the state, and writes the copy in a thread while training goes on.

    One file is written at a time: a checkpoint that comes before the one before has been written waits for it.

    Attributes:
        names: "before" is the name that the file gets whose place the next one takes, "too" another of the next one.
        written_step: optimizer step of the last checkpoint that is on the disk.
        written_at: when that one was begun, by `time.monotonic()`.
    """

    def __init__(self) -> None:
        self.names: dict[str, Path] = {}
        self.written_step, self.written_at = 0, time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: tuple[Path, OSError] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Copy a checkpoint and begin to write it.

        Args:
            checkpoint: plain data and tensors.
            path: of the file.
            storage_options: not used; some of Lightning's strategies do not pass it on.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        names, self.names = self.names, {}
        self._thread = threading.Thread(target=self._write, args=(_copied(checkpoint, {}), Path(path), names))
        self._thread.start()

    def wait(self) -> None:
        """Return once what was begun is on the disk.

        Raises:
            CheckpointError: it could not be written; the one before it is whole.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.look()

    def look(self) -> None:
        """Raise what went wrong since the last look; waits for nothing.

        Raises:
            CheckpointError: a checkpoint could not be written; the one before it is whole.
        """
        if self._error is not None:
            (path, error), self._error = self._error, None
            kept = path if path.exists() else "none"
            raise CheckpointError(f"{path} cannot be written: {error.strerror or error}; last good checkpoint: {kept}")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint to the CPU; never anything but plain data and tensors."""
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)

    def teardown(self) -> None:
        """Wait for what is being written; Lightning calls this at the end of training, also after an error."""
        self.wait()

    def _write(self, checkpoint: dict[str, Any], path: Path, names: Mapping[str, Path]) -> None:
        partial, begun_at = path.with_suffix(".partial"), time.monotonic()
        try:
            partial.unlink(missing_ok=True)  # of a run that was killed as it named its best: a second name of that one
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if "before" in names and path.exists():
                _name_too(path, names["before"])
            if "too" in names:  # first: a run that goes on from `path` relies on the best that this one knows of
                _name_too(partial, names["too"])
            os.replace(partial, path)
            _sync_folder(path.parent)
            if "before" in names:  # else it is one that no run goes on from by itself
                self.written_step, self.written_at = checkpoint["global_step"], begun_at
        except (OSError, RuntimeError) as error:  # torch's writer raises the second, where the file system refuses
            cause = error if isinstance(error, OSError) else error.__context__
            self._error = (path, cause if isinstance(cause, OSError) else OSError(str(error)))
            with suppress(OSError):
                partial.unlink()  # on a full disk, what is left of the run can then be written


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, its tensors mapped from the file; no code in it is run.

    Raises:
        ConfigError: there is no such file, it is damaged, no checkpoint of this recipe, or of a later version.
    """
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint {path}")
    found = path.stat()
    damage = _damage(path, found.st_ino, found.st_mtime_ns, found.st_size)
    if damage is not None:
        raise ConfigError(f"{path} is damaged{damage}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds more than plain data and tensors, which may be code; it was not run"
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged, or no checkpoint of this recipe") from error
    ours = saved.get("stepsize") if isinstance(saved, Mapping) else None
    if not isinstance(ours, Mapping) or not isinstance(ours.get("format"), int):
        raise ConfigError(f"{path} is no checkpoint of this recipe")
    if ours["format"] > FORMAT:
        version = ours.get("version", "unknown")
        raise ConfigError(f"{path} was written by a later version of Stepsize, {version}; update this one")
    counts = (saved.get("global_step"), saved.get("epoch"))
    if not isinstance(ours.get("config"), Mapping) or not all(isinstance(count, int) for count in counts):
        raise ConfigError(f"{path} is no checkpoint of this recipe")
    assert isinstance(saved, dict)
    return saved


@functools.lru_cache(maxsize=8)
def _damage(path: Path, inode: int, modified: int, size: int) -> str | None:
    """What is wrong with a file as a file, None where nothing is; looked at once, for it reads all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch keeps a checksum of every tensor, and does not look at it
    except (OSError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile):
        return ", or no checkpoint of this recipe"
    return None if broken is None else f": {broken} in it has another checksum"


def _copied(value: Any, made: dict[Any, torch.Tensor]) -> Any:
    """A copy on the CPU of all tensors in plain data; `made` has what was copied, as tied weights are two tensors."""
    match value:
        case torch.Tensor():
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            if place not in made or not value.numel():
                made[place] = value.detach().to("cpu", copy=True)
            return made[place]
        case dict():
            return {key: _copied(item, made) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_copied(item, made) for item in value)
    return value


def _name_too(path: Path, other: Path) -> None:
    """Give a file that is only ever replaced a second name; a copy where the file system has no hard links."""
    partial = other.with_suffix(".partial-name")
    partial.unlink(missing_ok=True)  # of a run that was killed here
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    os.replace(partial, other)
    partial.unlink(missing_ok=True)  # two names of one file are not replaced by each other


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, not only the files' contents."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

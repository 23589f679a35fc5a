"""A disk that is full, read-only or gone ends a run in one line, whichever file was the first to be refused."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from omegaconf import DictConfig

from stepsize import build
from stepsize.errors import CheckpointError
from stepsize.resume.unwritable import unwritable_explained
from stepsize.run import train

Composed = Callable[..., DictConfig]


def refused(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_named_with_the_last_good_checkpoint(tmp_path: Path, number: int) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    said = rf"{tmp_path} cannot be written: {os.strerror(number)}; last good checkpoint: .*last\.ckpt$"
    with pytest.raises(CheckpointError, match=said), unwritable_explained(tmp_path):
        raise refused(number)


def raised_from(error: Exception, cause: Exception) -> None:
    """Raise an error that came of another, or while another was handled."""
    try:
        raise cause
    except type(cause):
        raise error  # noqa: B904 - that is what libraries do


def test_what_a_library_made_of_it_is_traced_back(tmp_path: Path) -> None:
    said = "cannot be written: No space left on device; last good checkpoint: none"
    with pytest.raises(CheckpointError, match=said), unwritable_explained(tmp_path):
        raised_from(ValueError("you tried to log 0.1 which is not supported"), refused(errno.ENOSPC))


def test_the_checkpoint_s_own_answer_is_kept_where_another_file_fails_after_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^first$"), unwritable_explained(tmp_path):
        raised_from(refused(errno.ENOSPC), CheckpointError("first"))


def test_errors_that_came_of_each_other_in_a_circle_end(tmp_path: Path) -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    with pytest.raises(ValueError, match="one"), unwritable_explained(tmp_path):
        raise one


def test_a_file_of_the_run_whose_folder_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run" / "result.json"
    with (
        pytest.raises(CheckpointError, match=rf"{path} cannot be written: No such file"),
        unwritable_explained(path.parent),
    ):
        path.open("x")


def test_a_file_of_somebody_else_s_is_not_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), unwritable_explained(tmp_path / "run"):
        (tmp_path / "data.txt").open()


class _AsyncWriterThread(threading.Thread):
    """Is named like TensorBoard's."""


@pytest.mark.parametrize(("kind", "heard"), [(_AsyncWriterThread, []), (threading.Thread, ["No space left on device"])])
def test_a_traceback_of_tensorboard_s_thread_alone_is_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[threading.Thread], heard: list[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda error: told.append(error.exc_value.strerror))

    def fail() -> None:
        raise refused(errno.ENOSPC)

    with unwritable_explained(tmp_path):
        thread = kind(target=fail)
        thread.start()
        thread.join()
    assert told == heard


class Removes(L.Callback):
    """Takes the run's folder away while it trains."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == 40:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("logger", ["tensorboard", "csv", "none"])
def test_a_folder_that_is_removed_while_training_is_one_clear_error(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    cfg = composed("trainer=cpu", "trainer.max_epochs=2", f"logger={logger}")
    made = build.trainer

    def trainer(*rest: Any) -> L.Trainer:
        built = made(*rest)
        built.callbacks.insert(0, Removes(cfg.run_dir))  # type: ignore[attr-defined]
        return built

    monkeypatch.setattr(build, "trainer", trainer)
    with pytest.raises(
        CheckpointError, match=r"cannot be written: No such file or directory; last good checkpoint: none"
    ):
        train(cfg)

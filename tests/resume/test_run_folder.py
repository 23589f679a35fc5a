import os
from pathlib import Path

import pytest

from stepsize.errors import ConfigError
from stepsize.resume.run_folder import latest, run_folder


def saved(folder: Path, time: int) -> Path:
    """A run that saved its last checkpoint at a time."""
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (time, time))
    return folder


def test_a_new_run_has_a_new_folder(tmp_path: Path) -> None:
    assert run_folder("train", None, str(tmp_path), "fresh") == f"{tmp_path}/fresh"


def test_a_run_that_is_continued_keeps_its_folder(tmp_path: Path) -> None:
    old = saved(tmp_path / "old", 1)
    assert run_folder("train", f"{old}/", str(tmp_path), "fresh") == str(old)


def test_a_run_from_a_checkpoint_has_a_new_folder(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "old", 1) / "checkpoints" / "last.ckpt"
    assert run_folder("train", str(checkpoint), str(tmp_path), "fresh") == f"{tmp_path}/fresh"


def test_a_test_never_writes_into_the_folder_of_the_run(tmp_path: Path) -> None:
    old = saved(tmp_path / "old", 1)
    assert run_folder("test", str(old), str(tmp_path), "fresh") == f"{tmp_path}/fresh"


def test_the_latest_run_is_the_one_that_saved_last_and_not_the_one_begun_last(tmp_path: Path) -> None:
    old = saved(tmp_path / "2026-01-01", 5)
    saved(tmp_path / "2026-01-02", 4)
    assert latest(tmp_path) == old
    assert run_folder("train", "latest", str(tmp_path), "fresh") == str(old)


def test_a_run_that_has_saved_nothing_is_not_the_latest(tmp_path: Path) -> None:
    old = saved(tmp_path / "old", 1)
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    assert latest(tmp_path) == old


def test_no_run_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume=latest: there is no run with a checkpoint in "):
        latest(tmp_path / "nothing")

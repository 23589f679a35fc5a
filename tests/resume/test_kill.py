"""A run that dies at any moment: real processes, killed at random; and the calls that name a checkpoint, one by one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepsize.config import CONF
from stepsize.resume.checkpoint_files import CheckpointFiles, read

SCRIPT = CONF.parent / "scripts" / "kill_test.py"
KILLS = 40
CALLS = 5  # that name files: a link and a rename for the one before and for the best, a rename for the last


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What some kills of two cases print; two of them are of real commands."""
    words = ["--kills", str(KILLS), "--cases", "accumulated", "mlp", "--plain", "0.05", "--seed", "3"]
    folder = tmp_path_factory.mktemp("kills")
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder, capture_output=True, text=True, timeout=1500, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_killed_run_ends_as_one_that_was_not_and_never_loses_more_than_agreed(
    killed: subprocess.CompletedProcess[str],
) -> None:
    assert killed.returncode == 0, killed.stdout + killed.stderr
    assert re.search(rf"{KILLS} kills, 2 of python train.py; \d+ checkpoints loaded", killed.stdout)
    assert re.search(r"[1-9]\d* killed runs ended as the uninterrupted one; 0 failures", killed.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_kills_hit_steps_validations_and_checkpoints_being_written(killed: subprocess.CompletedProcess[str]) -> None:
    table = {
        line.split()[0]: line.split()[1:] for line in killed.stdout.splitlines() if re.match(r"\w+( +\w+){6}$", line)
    }
    activities = table.pop("checkpoint")
    hit = {row: dict(zip(activities, map(int, numbers), strict=True)) for row, numbers in table.items()}
    assert hit["all"]["all"] == KILLS
    assert hit["all"]["step"] >= 5
    assert hit["all"]["validation"] >= 3
    assert sum(hit[stage]["all"] for stage in ("write", "sync", "name")) >= 5


class Died(BaseException):
    """In the place of a SIGKILL: nothing that follows is done."""


@pytest.fixture
def die_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """die_before(2) lets a process do two more calls that name a file, and no third."""

    def arm(number: int) -> None:
        left = iter(range(number))

        def counting(call: Callable[..., None]) -> Callable[..., None]:
            def counted(*paths: Any) -> None:
                if next(left, None) is None:
                    raise Died
                call(*paths)

            return counted

        monkeypatch.setattr(os, "link", counting(os.link))
        monkeypatch.setattr(os, "replace", counting(os.replace))

    return arm


def write(folder: Path, step: int, *, best: bool = True) -> None:
    """A checkpoint; the best so far."""
    ours = {"format": 1, "version": "0", "config": {}}
    names = {"before": folder / "previous.ckpt"} | ({"too": folder / "best.ckpt"} if best else {})
    CheckpointFiles()._write({"global_step": step, "epoch": 0, "stepsize": ours}, folder / "last.ckpt", names)


@pytest.mark.parametrize("calls", range(CALLS))
def test_wherever_naming_ends_each_file_is_whole_and_the_best_no_older_than_the_last(
    tmp_path: Path, die_before: Callable[[int], None], calls: int
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    die_before(calls)
    with pytest.raises(Died):
        write(tmp_path, 3)
    found = {name: read(tmp_path / f"{name}.ckpt")["global_step"] for name in ("previous", "last", "best")}
    assert found["last"] == 2
    assert found["previous"] in (1, 2)
    assert found["best"] >= found["last"]


@pytest.mark.parametrize("calls", range(CALLS))
def test_what_a_kill_amid_naming_has_left_does_not_hinder_the_next_checkpoints(
    tmp_path: Path, die_before: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    die_before(calls)
    with pytest.raises(Died):
        write(tmp_path, 3)
    monkeypatch.undo()
    write(tmp_path, 3)
    write(tmp_path, 4)
    found = {name: read(tmp_path / f"{name}.ckpt")["global_step"] for name in ("previous", "last", "best")}
    assert found == {"previous": 3, "last": 4, "best": 4}


@pytest.mark.parametrize("calls", range(CALLS))
def test_the_next_checkpoint_does_not_write_through_to_the_best_that_a_kill_has_left(
    tmp_path: Path, die_before: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    write(tmp_path, 1)
    die_before(calls)
    with pytest.raises(Died):
        write(tmp_path, 2)
    best = read(tmp_path / "best.ckpt")["global_step"]
    monkeypatch.undo()
    write(tmp_path, 3, best=False)
    assert read(tmp_path / "best.ckpt")["global_step"] == best


def test_nothing_but_checkpoints_is_left_where_best_and_last_were_one_file(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, best=step == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]

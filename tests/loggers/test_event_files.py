"""TensorBoard's event files, cut to what a run goes on from."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from stepsize.loggers import event_files
from stepsize.loggers.event_files import keep_until


def write(folder: Path, *points: tuple[str, int]) -> Path:
    """An event file with a value for each tag and step."""
    before = set(folder.glob("*tfevents*"))
    writer = SummaryWriter(str(folder))
    for tag, step in points:
        writer.add_scalar(tag, step / 10, step)
    writer.close()
    (path,) = set(folder.glob("*tfevents*")) - before
    return path


def read(folder: Path) -> dict[str, list[int]]:
    """The steps of each tag, as whoever reads the records themselves sees them."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_what_lies_beyond_the_step_is_gone(tmp_path: Path) -> None:
    write(tmp_path, ("loss", 1), ("curve", 9), ("loss", 2), ("loss", 3), ("only beyond", 3))
    keep_until(tmp_path, 2)
    assert read(tmp_path) == {"loss": [1, 2]}


def test_what_stays_is_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, ("loss", 1), ("curve", 2))
    before = path.read_bytes()
    keep_until(tmp_path, 2)
    assert path.read_bytes() == before


def test_every_file_of_the_run_is_cut(tmp_path: Path) -> None:
    write(tmp_path, ("loss", 1), ("loss", 5))
    write(tmp_path, ("loss", 3), ("loss", 6))
    write(tmp_path / "part", ("loss", 7))
    keep_until(tmp_path, 4)
    assert read(tmp_path) == {"loss": [1, 3]}
    assert read(tmp_path / "part") == {}


def test_the_tags_with_a_value_at_the_step_are_told(tmp_path: Path) -> None:
    write(tmp_path, ("before", 1), ("at", 2), ("too", 2), ("beyond", 3))
    assert keep_until(tmp_path, 2) == {"at", "too"}


def test_a_folder_without_files_holds_no_tags(tmp_path: Path) -> None:
    assert keep_until(tmp_path / "none", 0) == set()


@pytest.mark.parametrize("lost", range(1, 20))
def test_a_record_cut_short_is_dropped(tmp_path: Path, lost: int) -> None:
    path = write(tmp_path, ("loss", 1), ("loss", 2))
    path.write_bytes(path.read_bytes()[:-lost])
    keep_until(tmp_path, 9)
    assert read(tmp_path) == {"loss": [1]}
    whole = path.read_bytes()
    keep_until(tmp_path, 9)
    assert path.read_bytes() == whole  # nothing half is left to be dropped again


def test_nothing_but_the_files_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, ("loss", 1))
    keep_until(tmp_path, 0)
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_cannot_be_cut_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ("loss", 1), ("loss", 2))
    before = path.read_bytes()

    def full(number: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(event_files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        keep_until(tmp_path, 1)
    assert path.read_bytes() == before


def test_what_a_death_while_cutting_leaves_is_no_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ("loss", 1), ("loss", 2))

    def die(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(event_files.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        keep_until(tmp_path, 1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2]

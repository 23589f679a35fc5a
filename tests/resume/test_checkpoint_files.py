import errno
import os
import resource
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import stepsize
from stepsize.errors import CheckpointError, ConfigError
from stepsize.resume.checkpoint_files import CheckpointFiles, read


def content(step: int, size: int = 10, **more: Any) -> dict[str, Any]:
    ours = {"format": 1, "version": stepsize.__version__, "config": {}, "is_between_steps": False}
    return {
        "global_step": step,
        "epoch": 0,
        "state_dict": {"w": torch.full((size,), float(step))},
        "stepsize": ours | more,
    }


@pytest.fixture
def last(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


def save(files: CheckpointFiles, path: Path, step: int, *, best: bool = False) -> None:
    files.names = {"before": path.with_name("previous.ckpt")} | ({"too": path.with_name("best.ckpt")} if best else {})
    files.save_checkpoint(content(step), path)
    files.wait()


def step(path: Path) -> int:
    return int(read(path)["global_step"])


def test_the_last_two_and_the_best_are_kept(last: Path) -> None:
    files = CheckpointFiles()
    for number in (1, 2, 3, 4):
        save(files, last, number, best=number == 2)
    found = {path.name: step(path) for path in last.parent.iterdir()}
    assert found == {"last.ckpt": 4, "previous.ckpt": 3, "best.ckpt": 2}


def test_the_last_two_and_the_best_are_kept_where_there_are_no_hard_links(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    files = CheckpointFiles()
    for number in (1, 2, 3):
        save(files, last, number, best=number == 1)
    found = {path.name: step(path) for path in last.parent.iterdir()}
    assert found == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 1}


def test_what_is_written_is_the_state_at_the_call(last: Path) -> None:
    files, weights = CheckpointFiles(), torch.zeros(1000)
    files.save_checkpoint(content(1) | {"state_dict": {"w": weights}}, last)
    weights.fill_(7)  # as the next training step does
    files.wait()
    assert not read(last)["state_dict"]["w"].any()


def test_tied_weights_are_written_once(last: Path) -> None:
    files, weights = CheckpointFiles(), torch.rand(100_000)
    files.save_checkpoint(content(1) | {"state_dict": {"a": weights, "b": weights.view(-1)}}, last)
    files.wait()
    assert last.stat().st_size < 1.5 * weights.nbytes


def test_parts_of_one_tensor_are_not_taken_for_each_other(last: Path) -> None:
    files, weights = CheckpointFiles(), torch.arange(4.0)
    parts = {"front": weights[:2], "back": weights[2:], "all": weights, "turned": weights.view(2, 2).T}
    files.save_checkpoint(content(1) | {"state_dict": parts}, last)
    files.wait()
    saved = read(last)["state_dict"]
    assert all(torch.equal(saved[name], part) for name, part in parts.items())


def test_training_goes_on_while_a_checkpoint_is_written(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, sync = threading.Event(), os.fsync

    def wait(descriptor: int) -> None:
        assert may_end.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    files = CheckpointFiles()
    files.save_checkpoint(content(1), last)  # returns
    assert not last.exists()
    may_end.set()
    files.wait()
    assert step(last) == 1


def test_the_file_and_its_name_are_on_the_disk_before_the_next_is_begun(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files = CheckpointFiles()
    save(files, last, 1)
    save(files, last, 2, best=True)
    assert done == ["file", "last.ckpt", "folder", "file", "previous.ckpt", "best.ckpt", "last.ckpt", "folder"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system"), (errno.EIO, "Input/output")],
)
def test_what_cannot_be_written_is_said_in_a_line_and_leaves_the_one_before(
    last: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    files = CheckpointFiles()
    save(files, last, 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=rf"last\.ckpt cannot be written: {said}.*; last good checkpoint: .*last"):
        save(files, last, 2)
    assert step(last) == 1


def test_a_folder_that_is_gone_is_said_and_not_made_anew(tmp_path: Path) -> None:
    files, last = CheckpointFiles(), tmp_path / "gone" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"No such file or directory; last good checkpoint: none$"):
        save(files, last, 1)
    assert not last.parent.exists()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from test_checkpoint_files import content, save
from stepsize.resume.checkpoint_files import CheckpointFiles
last, files = Path(sys.argv[1]), CheckpointFiles()
save(files, last, 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
files.save_checkpoint(content(2, size=1_000_000), last)
files.wait()
"""


def test_a_disk_that_takes_no_more_ends_in_our_error_and_leaves_the_one_before(last: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (resource.RLIM_INFINITY, -1)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(last)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stderr.splitlines()[-1].startswith(f"stepsize.errors.CheckpointError: {last} cannot be written: ")
    assert step(last) == 1


def test_a_save_that_failed_is_told_by_the_next_look_without_waiting(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CheckpointFiles()
    monkeypatch.setattr(torch, "save", lambda *rest: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    files.save_checkpoint(content(1), last)
    assert files._thread is not None
    files._thread.join()
    with pytest.raises(CheckpointError, match="full"):
        files.look()
    files.look()  # said once


def damaged(path: Path, change: Callable[[bytearray], None]) -> Path:
    save(CheckpointFiles(), path, 1)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def weights_place(data: bytearray) -> int:
    return bytes(data).index(torch.full((10,), 1.0).numpy().tobytes())


def flip(data: bytearray) -> None:
    data[weights_place(data)] ^= 1


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def empty(data: bytearray) -> None:
    data.clear()


def zero(data: bytearray) -> None:
    data[:] = bytes(len(data))


@pytest.mark.parametrize("change", [flip, cut, empty, zero])
def test_a_damaged_file_is_refused(last: Path, change: Callable[[bytearray], None]) -> None:
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged"):
        read(damaged(last, change))


def test_a_file_that_is_not_there_is_refused(last: Path) -> None:
    with pytest.raises(ConfigError, match=r"^there is no checkpoint .*last\.ckpt$"):
        read(last)


OURS = {"format": 1, "version": "1", "config": {}}


@pytest.mark.parametrize(
    "stranger",
    [
        {},
        {"state_dict": {}},
        [1, 2],
        {"stepsize": {"version": "1"}},
        {"stepsize": OURS | {"format": "z"}, "global_step": 1, "epoch": 0},
        {"stepsize": OURS},
        {"stepsize": OURS | {"config": None}, "global_step": 1, "epoch": 0},
    ],
    ids=str,
)
def test_another_programs_file_is_refused(last: Path, stranger: Any) -> None:
    torch.save(stranger, last)
    with pytest.raises(ConfigError, match="no checkpoint of this recipe"):
        read(last)


def test_another_kind_of_archive_is_refused(last: Path) -> None:
    with zipfile.ZipFile(last, "w") as archive:
        archive.writestr("photo.txt", "a photo")
    with pytest.raises(ConfigError, match="no checkpoint of this recipe"):
        read(last)


def test_a_later_version_is_named(last: Path) -> None:
    torch.save(content(1, format=2, version="9.1.0"), last)
    with pytest.raises(ConfigError, match=r"was written by a later version of Stepsize, 9\.1\.0; update this one"):
        read(last)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_code_in_a_file_is_refused_and_not_run(last: Path) -> None:
    target = last.with_name("ran")
    torch.save(content(1, config={"key": Attack(target)}), last)
    with pytest.raises(ConfigError, match="more than plain data and tensors"):
        read(last)
    assert not target.exists()

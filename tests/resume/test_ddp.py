"""Two real processes over gloo, one of which gets a signal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cutting import Run, differences

HERE = Path(__file__).parent
WORDS = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
SHORT = ("trainer.limit_train_batches=20", "trainer.limit_val_batches=2", "trainer.max_epochs=4", "logger=csv")
DRAWS = ("model.dropout=0.3", "data.crop_padding=1", "optimizer.lr=0.01", "data.batch_size=16")


def train(folder: Path, place: str = "") -> int:
    """Run train.py in a folder, and return its exit code; `place` is where one process gets a signal."""
    folder.mkdir(exist_ok=True)
    witness = f"+callbacks.witness={{_target_:witness.Writing,folder:{folder}{place}}}"
    command = [sys.executable, str(HERE.parents[1] / "train.py"), *WORDS, *SHORT, *DRAWS, witness]
    return subprocess.run(
        [*command, f"run_dir={folder}/run", "resume=auto"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        capture_output=True,
        timeout=240,
    ).returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is not cut off."""
    folder = tmp_path_factory.mktemp("ddp") / "whole"
    assert train(folder) == 0
    return folder


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one that is, and gone on with by the same command."""
    folder = tmp_path_factory.mktemp("ddp") / "cut"
    assert train(folder, ",epoch:1,batch:5") == 143
    assert len((folder / "rank0.jsonl").read_text().splitlines()) < 80
    assert train(folder, ",epoch:1,batch:5") == 0
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_sees_draws_and_loses_what_it_would_have(whole: Path, cut_off: Path, rank: int) -> None:
    name = f"rank{rank}.jsonl"
    assert (cut_off / name).read_text() == (whole / name).read_text()


def test_the_processes_see_and_draw_what_differs(whole: Path) -> None:
    first, second = ((whole / f"rank{rank}.jsonl").read_text() for rank in range(2))
    assert len(first.splitlines()) == 80
    assert first != second


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_the_checkpoints_equal_in_every_bit(whole: Path, cut_off: Path, name: str) -> None:
    runs = [Run(folder / "run", [], {}, {}) for folder in (whole, cut_off)]
    assert list(differences(*(run.checkpoint(name) for run in runs), name)) == []


def test_the_log_and_the_result_equal(whole: Path, cut_off: Path) -> None:
    first, second = (Run(folder / "run", [], {}, {}) for folder in (whole, cut_off))
    assert second.result == first.result
    table = Path("csv", "metrics.csv")
    assert (second.folder / table).read_text() == (first.folder / table).read_text()

"""metrics.csv: one row a step, gone on with."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from stepsize.loggers.table import Table
from stepsize.run import train

Composed = Callable[..., DictConfig]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def logged(folder: Path, *entries: tuple[int, dict[str, float]], start: int | None = None) -> None:
    """What a process leaves that logs these, going on from `start`."""
    table = Table(str(folder))
    if start is not None:
        table.go_on_from(start)
    for step, metrics in entries:
        table.log_metrics(metrics, step)
    table.save()


def test_a_step_is_a_row_and_a_tag_a_column(tmp_path: Path) -> None:
    logged(tmp_path, (10, {"train/loss": 0.5}), (1, {"train/loss": 1.5}), (10, {"val/loss": 0.25}))
    assert rows(tmp_path) == [
        {"step": "1", "train/loss": "1.5", "val/loss": ""},
        {"step": "10", "train/loss": "0.5", "val/loss": "0.25"},
    ]


def test_rows_beyond_the_step_are_dropped_and_the_others_kept(tmp_path: Path) -> None:
    logged(tmp_path, *((step, {"loss": 1.0}) for step in (1, 5, 6, 9)))
    logged(tmp_path, (6, {"loss": 2.0}), start=5)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("1", "1.0"), ("5", "1.0"), ("6", "2.0")]


def test_a_column_that_comes_later_joins_the_others(tmp_path: Path) -> None:
    logged(tmp_path, (1, {"b": 1.0}))
    logged(tmp_path, (2, {"a": 2.0}), start=1)
    assert rows(tmp_path) == [{"step": "1", "a": "", "b": "1.0"}, {"step": "2", "a": "2.0", "b": ""}]


def test_what_is_logged_again_at_the_step_itself_stands_once(tmp_path: Path) -> None:
    logged(tmp_path, (5, {"train/loss": 1.0, "val/loss": 2.0}))
    logged(tmp_path, (5, {"val/loss": 2.0}), start=5)
    assert rows(tmp_path) == [{"step": "5", "train/loss": "1.0", "val/loss": "2.0"}]


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = {"third": 1 / 3, "tiny": 5e-324, "none": math.nan, "zero": 0.0}
    logged(tmp_path, (1, values))
    before = (tmp_path / "csv" / "metrics.csv").read_bytes()
    logged(tmp_path, start=1)
    assert (tmp_path / "csv" / "metrics.csv").read_bytes() == before


def test_a_table_nobody_cuts_is_kept(tmp_path: Path) -> None:
    logged(tmp_path, (7, {"loss": 1.0}))
    logged(tmp_path, (9, {"test/loss": 1.0}))
    assert [row["step"] for row in rows(tmp_path)] == ["7", "9"]


def test_a_table_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(tmp_path, (1, {"loss": 1.0}))
    before = (tmp_path / "csv" / "metrics.csv").read_bytes()

    def full(number: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        logged(tmp_path, (2, {"loss": 2.0}))
    assert [path.name for path in (tmp_path / "csv").iterdir()] == ["metrics.csv"]
    assert (tmp_path / "csv" / "metrics.csv").read_bytes() == before


def test_only_process_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logged(tmp_path, (1, {"loss": 1.0}))
    assert not [*tmp_path.iterdir()]


def test_a_run_leaves_what_it_logs(composed: Composed) -> None:
    cfg = composed("logger=csv", "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=10")
    train(cfg)
    found = rows(Path(cfg.run_dir))
    assert [row["step"] for row in found if row["train/loss"]] == ["1", "10", "20", "30", "40", "50", "60", "66"]
    assert [row["step"] for row in found if row["val/accuracy"]] == ["33", "66"]
    assert [row["step"] for row in found if row["test/loss"]] == ["66"]

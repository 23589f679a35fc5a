"""A table of what a run logs: metrics.csv, one row a step."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from stepsize.data.files import whole_file


class Table(Logger):
    """Writes `<save_dir>/csv/metrics.csv`, sorted by step, which is the optimizer's; the file is whole or absent.

    A table that lies there is gone on with, where Lightning's own CSVLogger would delete it.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "csv" / "metrics.csv"
        self._rows: dict[int, dict[str, float]] = {}
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    step = int(row.pop("step"))
                    self._rows[step] = {k: float(v) for k, v in row.items() if v}

    @property
    def name(self) -> str:
        """The folder's name."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: a run's folder holds one run."""
        return ""

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Take back what was logged in the folder beyond a step; call it at every start, before anything is logged.

        Args:
            step: optimizer steps of the checkpoint; 0 where there is none.
        """
        self._rows = {at: row for at, row in self._rows.items() if at <= step}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add to the row of a step; to the last row where no step is given."""
        row = self._rows.setdefault(max(self._rows, default=0) if step is None else step, {})
        row.update({k: float(v) for k, v in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the composed config lies in the run's folder already."""

    @rank_zero_only
    def save(self) -> None:
        """Write the table."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["step", *sorted(set().union(*self._rows.values()))])
        table.writeheader()
        table.writerows({"step": step} | self._rows[step] for step in sorted(self._rows))
        with whole_file(self.path) as file:
            file.write(text.getvalue().encode())

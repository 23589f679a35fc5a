"""TensorBoard's files: scalars, hyperparameters, and the schedule's curve, in the run's own folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from stepsize.loggers.event_files import keep_until


class TensorBoard(TensorBoardLogger):
    """Writes `<save_dir>/tensorboard`; the x axis is the optimizer step.

    Args:
        save_dir: the run's folder.
        flush_secs: seconds after which what was logged reaches the disk, and so the page.
    """

    def __init__(self, save_dir: str, *, flush_secs: int = 10) -> None:
        super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False, flush_secs=flush_secs)
        self._step = 0
        self._known: set[str] = set()

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Take back what was logged in the folder beyond a step; call it at every start, before anything is logged.

        Args:
            step: optimizer steps of the checkpoint; 0 where there is none.
        """
        self._step, self._known = step, keep_until(Path(self.log_dir), step)
        self._kwargs["purge_step"] = step + 1  # marks the start, for a TensorBoard that has read the old files already

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars; what is known already of the step gone on from, such as a validation's metrics, only once."""
        new = {k: v for k, v in metrics.items() if step != self._step or k not in self._known}
        super().log_metrics(new, step)

    @rank_zero_only
    def log_choices(self, choices: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """One row of the HPARAMS page: what was chosen, beside the latest value of each metric's own scalar tag.

        Lightning's `log_hyperparams` would write the metrics as scalars at step 0 and bend their curves.

        Args:
            choices: name to plain value.
            metrics: scalar tags to show as columns.
        """
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in choices.items()}
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def save(self) -> None:
        """Flush; the composed config already lies in the run's folder, so no hparams.yaml is written."""
        self.experiment.flush()

"""TensorBoard's files: scalars, hyperparameters, and the schedule's curve, in the run's own folder."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams


class TensorBoard(TensorBoardLogger):
    """Writes `<save_dir>/tensorboard`; the x axis is the optimizer step.

    Args:
        save_dir: the run's folder.
        flush_secs: seconds after which what was logged reaches the disk, and so the page.
    """

    def __init__(self, save_dir: str, *, flush_secs: int = 10) -> None:
        super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False, flush_secs=flush_secs)

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

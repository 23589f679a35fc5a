"""What is checked before Hydra makes a run's folder, so that a wrong word leaves nothing behind."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from stepsize.answers import leave
from stepsize.errors import ConfigError


class Preflight(Callback):
    """Hydra callback: refuses choices that cannot work, and a folder that already holds a run.

    Hydra turns an exception of a callback's into a warning, and lets SystemExit through: that is what `leave` raises.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run; `stepsize.run.train` checks each job of several."""
        if joins_a_run():
            return
        from stepsize.check import check  # loads torch: not before Hydra has composed

        HydraConfig.instance().set_config(config)  # Hydra's own next step; the folder's name is made of its choices
        try:
            if config.sweep is not None:
                raise ConfigError("sweep: a sweep is many runs; add -m: python train.py -m sweep=WORD")
            check(config)
            refuse_used(Path(config.hydra.run.dir), config.resume)
        except Exception as error:  # all of them would else become warnings
            leave(error)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Answer an error of the run itself here: Hydra would put a line of its own before it."""
        job: JobReturn = kwargs["job_return"]
        if job.status == JobStatus.FAILED:
            folder = Path(config.hydra.runtime.output_dir)
            if isinstance(job._return_value, ConfigError) and not holds_a_run(folder):
                remove_traces(folder)
            leave(job._return_value)


def joins_a_run() -> bool:
    """Whether Lightning started this process to join a run that was checked, and whose folder is in use."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def remove_traces(folder: Path) -> None:
    """Remove what Hydra wrote into a folder whose run never began, and the folder itself if that leaves it empty."""
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    log = folder / "train.log"
    if log.exists() and not log.stat().st_size:
        log.unlink()
    for empty in (folder, folder.parent):
        with suppress(OSError):
            empty.rmdir()


def refuse_used(folder: Path, resume: str | None) -> None:
    """Refuse to write a run over another.

    Raises:
        ConfigError: the folder holds a run, and `resume` does not say to continue that one.
    """
    there = folder.resolve()
    continued = {there, there / "checkpoints"}
    if resume in ("auto", "latest") or (resume and {Path(resume).resolve(), Path(resume).resolve().parent} & continued):
        return
    if holds_a_run(folder):
        raise ConfigError(f"run_dir={folder}: holds a run already; choose another folder, or resume={folder}")


def holds_a_run(folder: Path) -> bool:
    """Whether another run has written into a folder; what this process joins is its own."""
    return not joins_a_run() and any(
        (folder / trace).exists() for trace in ("result.json", "checkpoints", "tensorboard", "csv")
    )

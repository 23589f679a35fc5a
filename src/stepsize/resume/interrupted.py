"""What an interrupted run says last: how to go on; and under SLURM, the request to be queued again."""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from stepsize.errors import RunInterrupted
from stepsize.resume.signals import Signals

log = logging.getLogger(__name__)


@contextmanager
def interruptions_explained(cfg: DictConfig, folder: Path, trainer: L.Trainer) -> Iterator[None]:
    """Heed signals in the block, and say where one has interrupted it and what to type to continue.

    Args:
        cfg: of the run.
        folder: of the run.
        trainer: made by `build`.

    Raises:
        RunInterrupted: the block did. The first process ends with its code and the others with 0: Lightning, and some
            clusters, kill the first one where another fails.
    """
    signals = trainer._signal_connector
    assert isinstance(signals, Signals)
    try:
        with signals.heeded():
            yield
    except RunInterrupted as stop:
        if not trainer.is_global_zero:
            stop.code = 0
            raise
        saved = "nothing was saved" if stop.saved is None else f"saved {os.path.relpath(stop.saved)}"
        log.info("%s at step %s; %s", stop.signal, stop.step, saved)
        path = os.path.relpath(folder)
        quoted = path if re.fullmatch(r"[\w./ -]+", path) else f"'{path}'"  # Hydra reads some signs as a grammar's
        again = shlex.join(["python", sys.argv[0], f"resume={quoted}"])
        requeued = cfg.resume == "auto" and stop.signal == signal.SIGUSR1.name and _requeue()
        if stop.saved is not None and not requeued:
            log.info("to continue: %s", "the same command" if cfg.resume == "auto" else again)
        raise


def _requeue() -> bool:
    """Have SLURM start this job again; it sends SIGUSR1 before a time limit where `sbatch --signal` asks for it."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or error
        log.warning("scontrol requeue %s failed: %s", job, " ".join(str(said).split()))
        return False
    log.info("SLURM will start job %s again", job)
    return True

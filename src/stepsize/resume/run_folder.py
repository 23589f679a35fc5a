"""Which folder a run writes into: a new one, or that of the run which it continues."""

from pathlib import Path

from stepsize.errors import ConfigError


def run_folder(mode: str, resume: str | None, runs: str, fresh: str) -> str:
    """The default of `run_dir`: the folder that `resume` names, if it is a run's; else a new one.

    Args:
        mode: "train" or "test"; a test never writes into the folder of the run that it tests.
        resume: None, "auto", "latest", or a path.
        runs: folder of all runs of this name.
        fresh: name of a new folder in it.

    Raises:
        ConfigError: no run of this name has saved a checkpoint.
    """
    if mode == "train" and resume == "latest":
        return str(latest(runs))
    if mode == "train" and resume not in (None, "auto") and Path(resume).is_dir():
        return resume.rstrip("/")
    return f"{runs}/{fresh}"


def latest(runs: str | Path) -> Path:
    """The run that was the last to save a checkpoint among the folders in `runs`.

    Raises:
        ConfigError: none has.
    """
    saved = [path for path in Path(runs).glob("*/checkpoints/last.ckpt") if path.is_file()]
    if not saved:
        raise ConfigError(f"resume=latest: there is no run with a checkpoint in {runs}; leave resume= out to begin one")
    return max(saved, key=lambda path: path.stat().st_mtime_ns).parents[1]

"""Going on from a checkpoint: which one, and with which choices."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from stepsize.data.files import whole_file
from stepsize.differences import differences
from stepsize.errors import ConfigError
from stepsize.resume.checkpoint_files import read

log = logging.getLogger(__name__)

# What the weights and the optimizer's state were made with. The rest may change, and what is said then holds.
_FIXED = ("model", "data", "optimizer", "param_groups")
_FREE = ("data.root", "data.num_workers")
_SAID = ("schedule", "task", "trainer", "callbacks", "logger", "objective", "compile")  # changes worth a line


class Start(NamedTuple):
    """Where a run goes on.

    Args:
        path: the checkpoint.
        saved: what it holds.
    """

    path: Path
    saved: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.saved["global_step"])


def start(cfg: DictConfig, folder: Path) -> Start | None:
    """The checkpoint to continue from; None to start anew.

    `resume=auto` takes the newest good one in the run's own folder, if there is any; `resume=latest`, or a folder, that
    of the run there, the one before where the last is damaged; anything else is a checkpoint itself.

    Args:
        cfg: the composed config.
        folder: of this run.

    Raises:
        ConfigError: there is none, it is none of ours, or it was made with another model, data or optimizer.
    """
    match cfg.resume:
        case None:
            return None
        case "auto":
            if "${" in str(OmegaConf.to_container(cfg, resolve=False)["run_dir"]):  # type: ignore[index,call-overload]
                raise ConfigError("resume=auto: continues the run in a fixed folder, or begins it; set run_dir=")
            found = _newest(folder)
            if found is None and any(_candidates(folder)):
                raise ConfigError(f"resume=auto: no checkpoint in {folder} is whole; remove the folder to start anew")
        case _:
            place = folder if cfg.resume == "latest" else Path(cfg.resume)
            if place.is_dir():
                found = _newest(place)
                if found is None:
                    raise ConfigError(f"resume={cfg.resume}: there is no whole checkpoint in {place / 'checkpoints'}")
            elif not place.exists():
                raise ConfigError(f"resume={cfg.resume}: there is no such folder or checkpoint")
            else:
                found = Start(place, read(place))
    if found is not None:
        _check(cfg, found)
    return found


def keep_best(begun: Start, folder: Path) -> None:
    """Let a run in another folder begin with the best checkpoint that the one it continues knew of."""
    best, kept = begun.path.with_name("best.ckpt"), folder / "checkpoints" / "best.ckpt"
    if not best.exists() or kept.exists():
        return
    known = begun.saved.get("callbacks", {}).get("Objective", {}).get("step")
    if read(best)["global_step"] == known:  # else it is of a later step, or of another run that was saved beside
        with whole_file(kept) as file, best.open("rb") as source:
            shutil.copyfileobj(source, file)


def changes(cfg: DictConfig, begun: Start) -> list[str]:
    """What holds from now on and did not before, a line each."""
    before = begun.saved["stepsize"]["config"]
    now = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(now, dict)
    found = (d for group in _SAID for d in differences(group, before.get(group), now.get(group)))
    return [f"{key} was {was} and is now {is_now}" for key, was, is_now in found]


def _candidates(folder: Path) -> Iterator[Path]:
    names = ("last.ckpt", "previous.ckpt")
    return (path for path in (folder / "checkpoints" / name for name in names) if path.exists())


def _newest(folder: Path) -> Start | None:
    for path in _candidates(folder):
        try:
            return Start(path, read(path))
        except ConfigError as error:
            log.warning("%s; the one before it is looked at", error)
    return None


def _check(cfg: DictConfig, begun: Start) -> None:
    ours = begun.saved["stepsize"]
    for group in _FIXED:
        now = OmegaConf.to_container(cfg[group], resolve=True, enum_to_str=True)
        for key, was, is_now in differences(group, ours["config"].get(group), now):
            if key not in _FREE:
                raise ConfigError(f"resume={cfg.resume}: {key} was {was} and is now {is_now}; leave it, or start anew")
    if ours.get("is_between_steps"):
        raise ConfigError(
            f"resume={cfg.resume}: {begun.path.name} was written amid the accumulation of a step, whose gradients it "
            "does not hold; go on from last.ckpt"
        )
    epoch, max_epochs, max_steps = int(begun.saved["epoch"]), cfg.trainer.max_epochs, cfg.trainer.max_steps
    if 0 <= max_steps < begun.step:
        raise ConfigError(f"resume={cfg.resume}: {begun.step} steps have been taken, more than max_steps={max_steps}")
    if max_epochs is not None and 0 <= max_epochs <= epoch:
        raise ConfigError(f"resume={cfg.resume}: epoch {epoch + 1} has begun, more than max_epochs={max_epochs}")

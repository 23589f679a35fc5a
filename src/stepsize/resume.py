"""Going on from a checkpoint: which one, and with which choices."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from stepsize.differences import differences
from stepsize.errors import ConfigError

# What the weights and the optimizer's state were made with. The rest may change, and what is said then holds.
_FIXED = ("model", "data", "optimizer", "param_groups")
_FREE = ("data.root",)


def checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint to continue from: `resume` itself, or the last of the run in that folder; None to start anew.

    Raises:
        ConfigError: there is none, it is none of ours, or it was made with another model, data or optimizer.
    """
    if cfg.resume is None:
        return None
    path = Path(cfg.resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"resume={cfg.resume}: there is no checkpoint {path}")
    before = _config(path)
    for group in _FIXED:
        now = OmegaConf.to_container(cfg[group], resolve=True, enum_to_str=True)
        for key, was, is_now in differences(group, before.get(group), now):
            if key not in _FREE:
                raise ConfigError(f"resume={cfg.resume}: {key} was {was} and is now {is_now}; leave it, or start anew")
    return path


def keep_best(path: Path, folder: Path) -> None:
    """Let a run in another folder begin with the best checkpoint of the one it continues."""
    best, kept = path.parent / "best.ckpt", folder / "checkpoints" / "best.ckpt"
    if best.exists() and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, kept)


def _config(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        config: dict[str, Any] = saved["stepsize"]["config"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"resume: {path} is damaged, or no checkpoint of this recipe") from error
    return config

"""A trained network from a run's checkpoint: which file, and what is built from it."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from stepsize import build
from stepsize.data import DATA
from stepsize.differences import differences
from stepsize.errors import ConfigError
from stepsize.models import MODELS
from stepsize.resume.checkpoint_files import read
from stepsize.resume.run_folder import latest

_FREE = ("data.root", "data.batch_size")  # what may differ where a network is tested again
_PREFIX = "network."  # the task's attribute
_CALLABLE = (("model", "stepsize.models.MODELS", MODELS), ("data", "stepsize.data.DATA", DATA))


def checkpoint(path: str | PathLike[str]) -> Path:
    """The checkpoint that a run is judged by: its best, or its last where it has no best.

    Args:
        path: a run's folder; or a checkpoint, which is then the one.

    Raises:
        ConfigError: there is none.
    """
    given = Path(path)
    folder = given / "checkpoints"
    for file in (folder / "best.ckpt", folder / "last.ckpt") if given.is_dir() else (given,):
        if file.is_file():
            return file
    raise ConfigError(
        f"{given}: there is no best.ckpt and no last.ckpt in {folder}"
        if given.is_dir()
        else f"{given}: there is no such folder and no such checkpoint"
    )


def to_test(cfg: DictConfig) -> Path:
    """The checkpoint that `mode=test` evaluates.

    Args:
        cfg: the composed config; `resume` names a run, or one of its checkpoints.

    Raises:
        ConfigError: there is none; or the config's model or data are not those it was trained with: other test
            examples may be among those it was trained on.
    """
    match cfg.resume:
        case None:
            raise ConfigError("mode=test: say which network, by resume= and a run's folder or a checkpoint")
        case "auto":
            raise ConfigError(
                "resume=auto: continues the run in run_dir=; mode=test takes resume=PATH or resume=latest"
            )
        case "latest":
            file = checkpoint(latest(f"runs/{cfg.name}"))
        case _:
            file = checkpoint(cfg.resume)
    before = read(file)["stepsize"]["config"]
    for group in ("model", "data"):
        for key, was, is_now in differences(group, before.get(group), build.plain(cfg[group])):
            if key not in _FREE:
                raise ConfigError(f"resume={cfg.resume}: {key} was {was} and is now {is_now}; leave it as it was")
    return file.absolute()


def network(path: str | PathLike[str], device: torch.device | str) -> nn.Module:
    """The trained network; `stepsize.load` says more.

    Raises:
        ConfigError: as there.
    """
    file = checkpoint(path)
    saved = read(file)
    cfg = _recipe(file, saved["stepsize"]["config"])
    weights = {
        name.removeprefix(_PREFIX): w for name, w in saved.get("state_dict", {}).items() if name.startswith(_PREFIX)
    }
    try:
        with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and replaced
            made = build.network(cfg, build.data(cfg))
        made.to(_dtype(weights)).load_state_dict(weights)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    except RuntimeError as error:
        raise ConfigError(f"{file}: its weights are not those of the network that its config describes") from error
    return made.to(device).eval()


def _recipe(file: Path, config: Mapping[str, Any]) -> DictConfig:
    """What the network is built from; a file may not choose what is called, the tables do.

    Raises:
        ConfigError: it would call something else.
    """
    for group, name, table in _CALLABLE:
        for called in [*_called(config.get(group))] or ["nothing"]:
            if called not in table.values():
                raise ConfigError(
                    f"{file}: its {group} calls {called}, which is not in {name}; what you trust, add there"
                )
    return OmegaConf.create({group: config[group] for group, _, _ in _CALLABLE})


def _called(node: Any) -> Iterator[str]:
    """What would be called to build a node of a config: each `_target_`, and each interpolation, as it is written."""
    match node:
        case Mapping():
            if "_target_" in node:
                yield str(node["_target_"])
            yield from (called for key, value in node.items() if key != "_target_" for called in _called(value))
        case list():
            yield from (called for value in node for called in _called(value))
        case str() if "${" in node:
            yield node


def _dtype(weights: Mapping[str, Tensor]) -> torch.dtype | None:
    """The one that `trainer.precision=bf16-true` or 64-true gave to all weights; None where they have several."""
    found = {w.dtype for w in weights.values() if w.is_floating_point()}
    return found.pop() if len(found) == 1 else None

"""From a composed config to objects: the one caller of `hydra.utils.instantiate`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import LBFGS, Optimizer

from stepsize import trial
from stepsize.blame import blame
from stepsize.callbacks.interruption import Interruption
from stepsize.callbacks.objective import Objective
from stepsize.callbacks.reporting import Reporting
from stepsize.errors import ConfigError
from stepsize.no_profiler import NoProfiler
from stepsize.optimizer_arguments import arguments
from stepsize.resume import loops
from stepsize.resume.signals import Signals
from stepsize.schedules.schedule import Schedule
from stepsize.schedules.warmup import warmup
from stepsize.signature import load
from stepsize.task import Task

WARMUP = ("warmup_steps", "warmup_fraction")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain data, interpolations resolved."""
    found = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


class Run(NamedTuple):
    """The objects of a run."""

    trainer: L.Trainer
    task: Task
    data: Any
    objective: Objective


def assemble(cfg: DictConfig, folder: Path) -> Run:
    """Everything that `trainer.fit(task, data)` takes; no data are loaded yet.

    Args:
        cfg: the composed config.
        folder: where the run writes.

    Raises:
        ConfigError: something cannot be built.
    """
    objective = Objective(cfg.objective.metric, str(cfg.objective.mode))
    made = trainer(cfg, folder, objective)
    source = data(cfg)
    make = optimizer(cfg, made.strategy.root_device)
    if made.world_size > 1 and issubclass(make.func, LBFGS):  # type: ignore[arg-type]
        raise ConfigError(
            f"optimizer: {make.func.__name__} searches along a line by a loss that differs between processes, which "
            "then wait for each other forever; take trainer.devices=1"
        )
    return Run(made, task(cfg, source, make), source, objective)


def optimizer(cfg: DictConfig, device: torch.device | None) -> partial[Optimizer]:
    """Makes the optimizer from parameter groups; fused where the device has it and the user has not chosen otherwise.

    Args:
        cfg: the composed config.
        device: where the parameters will lie; None leaves open whether the step is fused.

    Raises:
        ConfigError: an unknown class or argument, or fused=true where the device has no fused step.
    """
    cls = target(cfg, "optimizer")
    with blame("optimizer"):
        given = instantiate(cfg.optimizer, _convert_="all").keywords
    return partial(cls, **arguments(cfg, cls, given, device))


def learning_rate(cfg: DictConfig) -> float:
    """The learning rate of the chosen optimizer: its default, unless the config says another.

    Raises:
        ConfigError: an unknown class or argument.
    """
    return float(optimizer(cfg, None).keywords["lr"])


def schedule(cfg: DictConfig) -> Schedule:
    """The schedule, behind its warmup.

    Raises:
        ConfigError: a value out of range.
    """
    keys = plain(cfg.schedule)
    lengths = {k: keys.pop(k, None) for k in WARMUP}
    with blame("schedule"):
        return warmup(instantiate(keys, _convert_="all"), **lengths)


def data(cfg: DictConfig) -> L.LightningDataModule:
    """The data module; it has loaded nothing yet.

    Raises:
        ConfigError: a value out of range.
    """
    with blame("data"):
        module: L.LightningDataModule = instantiate(cfg.data, _convert_="all")
    return module


def network(cfg: DictConfig, data: Any) -> nn.Module:
    """The network for the data's shape.

    Args:
        cfg: the composed config.
        data: data module; gives input_shape and num_classes.

    Raises:
        ConfigError: a value out of range.
    """
    with blame("model"):
        made: nn.Module = instantiate(cfg.model, _convert_="all")(data.input_shape, data.num_classes)
    if any(p.ndim == 4 for p in made.parameters()):
        # Convolutions run faster so, on a GPU and on a CPU; torch's types do not know the word.
        made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def task(cfg: DictConfig, data: Any, optimizer: partial[Optimizer]) -> Task:
    """The LightningModule: a network for the data's shape, with its optimizer, schedule and groups.

    Args:
        cfg: the composed config.
        data: data module; gives input_shape, num_classes and metrics.
        optimizer: makes the optimizer from parameter groups.

    Raises:
        ConfigError: a value out of range.
    """
    made = network(cfg, data)
    if cfg.compile:
        made.compile()  # in place: the names in a checkpoint stay
    keywords = optimizer.keywords
    with blame("param_groups"):
        group = instantiate(cfg.param_groups, _convert_="all")
        groups = group(made, keywords["lr"], keywords.get("weight_decay"), rules=rules(optimizer))
    with blame("task"):
        built: Task = instantiate(cfg.task, _convert_="all")(made, optimizer, schedule(cfg), groups, data.metrics)
    return built


def rules(optimizer: partial[Optimizer]) -> Sequence[str]:
    """The names of an optimizer's rules, or of the one that it wraps; empty where it has one rule alone."""
    cls: Any = optimizer.func
    wrapped = cls.base_class(optimizer.keywords["base"]) if hasattr(cls, "base_class") else cls
    return getattr(wrapped, "rules", ())


def trainer(cfg: DictConfig, folder: Path, objective: Objective) -> L.Trainer:
    """Lightning's Trainer with our logger and callbacks, writing into `folder`.

    Raises:
        ConfigError: more devices than there are, an unknown precision, and whatever else Lightning refuses.
    """
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: there is no GPU here; take trainer=cpu")
    switches = {"checkpoint": cfg.trainer.enable_checkpointing, "progress": cfg.trainer.enable_progress_bar}
    unwanted = {name for name, wanted in switches.items() if wanted is False}
    callbacks: list[L.Callback] = [objective]
    if tried := trial.current():
        callbacks.append(Reporting(tried, objective))
    for name, node in (cfg.callbacks or {}).items():
        if name in unwanted or node is None:
            continue
        with blame(f"callbacks.{name}"):
            made = instantiate(node, _convert_="all")
            if name == "checkpoint":
                made = made(folder / "checkpoints", plain(cfg), typed(), objective)
            callbacks.append(made)
    with blame("trainer"):
        make = instantiate(cfg.trainer, _convert_="all")
        precision = make.keywords["precision"]
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "auto":
            wants_gpu = make.keywords["accelerator"] in ("auto", "gpu", "cuda")
            precision = "bf16-mixed" if wants_gpu and has_bf16 else "32-true"
        built: L.Trainer = make(
            precision=precision,
            profiler=make.keywords["profiler"] or NoProfiler(),
            logger=_logger(cfg, folder),
            callbacks=callbacks,
            default_root_dir=folder,
            # Lightning would else add its own of each.
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        )
    loops.install(built)
    signals = Signals(built, listens=trial.current() is None)
    built._signal_connector = signals  # type: ignore[assignment]
    built.callbacks.insert(0, Interruption(signals))  # type: ignore[attr-defined]
    if built.strategy.root_device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    return built


def typed() -> list[str]:
    """What was typed to compose the config; empty where no Hydra did."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _logger(cfg: DictConfig, folder: Path) -> Any:
    if not cfg.logger:
        return False
    with blame("logger"):
        return instantiate(cfg.logger, _convert_="all")(save_dir=str(folder))


def target(cfg: DictConfig, group: str) -> Any:
    """The class or function that a group's choice names, imported."""
    if cfg[group] is None:
        raise ConfigError(f"{group}: a run needs one; set {group}=WORD, python train.py --help lists the words")
    with blame(group):
        return load(cfg[group]._target_)

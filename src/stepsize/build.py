"""From a composed config to objects: the one caller of `hydra.utils.instantiate`, and what is refused before."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import LBFGS, Optimizer

from stepsize.callbacks.objective import Objective
from stepsize.errors import ConfigError, suggestion
from stepsize.no_profiler import NoProfiler
from stepsize.optimizers.fused import has_fused_step
from stepsize.param_groups import param_groups, read_patterns
from stepsize.schedules.horizon import HorizonError
from stepsize.schedules.schedule import Schedule
from stepsize.schedules.warmup import warmup
from stepsize.signature import UnknownTargetError, load
from stepsize.task import Task

log = logging.getLogger(__name__)

_WARMUP = ("warmup_steps", "warmup_fraction")
_FP16 = ("16-mixed", 16, "16")  # Lightning's names for automatic mixed precision in float16


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain data, interpolations resolved."""
    found = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work, before any data is loaded and any network or trainer built.

    Raises:
        ConfigError: with the reason and what to do instead.
    """
    source, model = _target(cfg, "data"), _target(cfg, "model")
    if model.accepts != source.kind:
        raise ConfigError(f"model: {model.__name__} takes {model.accepts}, but {source.__name__} gives {source.kind}")
    data(cfg)
    _check_metrics(cfg, [f"val/{m}" for m in ("loss", *source.metrics)])
    if cfg.trainer.limit_val_batches == 0:
        raise ConfigError(
            "trainer.limit_val_batches=0: the objective is measured in validation; leave at least 1 batch"
        )
    checkpoint(cfg)
    _check_optimizer(cfg)
    if cfg.trainer.accumulate_grad_batches < 1:
        raise ConfigError(
            f"trainer.accumulate_grad_batches must be at least 1, got {cfg.trainer.accumulate_grad_batches}"
        )
    multiplier = schedule(cfg)
    if cfg.trainer.max_epochs == -1 and cfg.trainer.max_steps == -1:
        with _blame("schedule"):
            multiplier(0, None)


def _check_metrics(cfg: DictConfig, logged: list[str]) -> None:
    watched = {"objective.metric": cfg.objective.metric, "task.monitor": cfg.task.monitor}
    for name, callback in (cfg.callbacks or {}).items():
        if "monitor" in callback:
            watched[f"callbacks.{name}.monitor"] = callback.monitor
    for key, metric in watched.items():
        if metric not in logged:
            raise ConfigError(f"{key}={metric}: never logged; {suggestion(str(metric), logged)}")


def _check_optimizer(cfg: DictConfig) -> None:
    make = optimizer(cfg, None)
    name = make.func.__name__
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    with _blame("optimizer"):
        made = make([matrix])
    try:
        make([vector])
    except ValueError:
        raise ConfigError(
            f"optimizer: {name} takes matrices only, and every network has biases or norms; "
            "take one that treats the others too, such as optimizer=adamw"
        ) from None
    if isinstance(made, LBFGS):
        if cfg.trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                f"optimizer: {name} evaluates a batch several times a step and cannot accumulate batches; set "
                "trainer.accumulate_grad_batches=1 and a larger data.batch_size"
            )
        if cfg.trainer.precision in _FP16:
            raise ConfigError(
                f"optimizer: {name} evaluates a batch several times a step, which 16-mixed cannot scale; set "
                "trainer.precision=bf16-mixed or 32-true"
            )
        if cfg.param_groups.patterns or cfg.param_groups.layer_decay < 1:
            raise ConfigError(
                f"optimizer: {name} has one group of parameters; drop param_groups.patterns and layer_decay"
            )
    rules = getattr(type(made), "rules", ())
    with _blame("param_groups"):
        patterns = read_patterns(plain(cfg.param_groups)["patterns"])
        param_groups(nn.ParameterList([matrix, vector]), 1.0, 0.0, layer_decay=cfg.param_groups.layer_decay)
    for pattern in patterns:
        if pattern.rule is not None and pattern.rule not in rules:
            raise ConfigError(f"param_groups: {name} has no rule {pattern.rule!r}; {suggestion(pattern.rule, rules)}")


def optimizer(cfg: DictConfig, device: torch.device | None) -> partial[Optimizer]:
    """Makes the optimizer from parameter groups; fused where the device has it and the user has not chosen otherwise.

    Args:
        cfg: the composed config.
        device: where the parameters will lie; None leaves open whether the step is fused.

    Raises:
        ConfigError: an unknown class or argument, or fused=true where the device has no fused step.
    """
    cls = _target(cfg, "optimizer")
    with _blame("optimizer"):
        make = instantiate(cfg.optimizer, _convert_="all")
    known = {n: p for n, p in inspect.signature(cls).parameters.items() if n != "params"}
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in make.keywords:
            if key not in known:
                raise ConfigError(f"optimizer.{key}: {cls.__name__} has no such argument; {suggestion(key, known)}")
    for key, value in make.keywords.items():
        default = known[key].default if key in known else None
        if isinstance(default, tuple) and not (isinstance(value, list) and len(value) == len(default)):
            raise ConfigError(f"optimizer.{key}: {cls.__name__} takes {len(default)} values, got {value}")
    keywords = {n: p.default for n, p in known.items() if n in ("lr", "weight_decay")} | make.keywords
    if keywords.get("lr", inspect.Parameter.empty) in (inspect.Parameter.empty, None):
        raise ConfigError(f"optimizer.lr: {cls.__name__} has no default learning rate; set optimizer.lr=0.001, say")
    for other in ("foreach", "differentiable"):
        if keywords.get("fused") and keywords.get(other):
            raise ConfigError(f"optimizer: fused=true and {other}=true exclude each other; leave one of them out")
    # Under fp16 a fused step unscales the gradient itself, after it would have to be clipped.
    scaled_and_clipped = cfg.trainer.precision in _FP16 and cfg.trainer.gradient_clip_val
    if keywords.get("fused") and scaled_and_clipped:
        raise ConfigError(
            "optimizer.fused=true: a fused step unscales 16-mixed's gradient too late to clip it; leave fused out, or "
            "set trainer.precision=bf16-mixed"
        )
    if device is None:
        return partial(cls, **keywords | {"fused": None} if "fused" in known else keywords)
    if keywords.get("fused") and not has_fused_step(cls, device):
        raise ConfigError(f"optimizer.fused=true: {cls.__name__} has no fused step on {device.type}; leave it out")
    undecided = keywords.get("fused", False) is None and not any(
        keywords.get(other) for other in ("foreach", "capturable", "differentiable")
    )
    if undecided and not scaled_and_clipped and has_fused_step(cls, device):
        keywords["fused"] = True
    return partial(cls, **keywords)


def schedule(cfg: DictConfig) -> Schedule:
    """The schedule, behind its warmup.

    Raises:
        ConfigError: a value out of range.
    """
    keys = plain(cfg.schedule)
    lengths = {k: keys.pop(k, None) for k in _WARMUP}
    with _blame("schedule"):
        return warmup(instantiate(keys, _convert_="all"), **lengths)


def data(cfg: DictConfig) -> L.LightningDataModule:
    """The data module; it has loaded nothing yet.

    Raises:
        ConfigError: a value out of range.
    """
    with _blame("data"):
        module: L.LightningDataModule = instantiate(cfg.data, _convert_="all")
    return module


def task(cfg: DictConfig, data: Any, optimizer: partial[Optimizer]) -> Task:
    """The LightningModule: a network for the data's shape, with its optimizer, schedule and groups.

    Args:
        cfg: the composed config.
        data: data module; gives input_shape, num_classes and metrics.
        optimizer: makes the optimizer from parameter groups.

    Raises:
        ConfigError: a value out of range.
    """
    with _blame("model"):
        network = instantiate(cfg.model, _convert_="all")(data.input_shape, data.num_classes)
    if any(p.ndim == 4 for p in network.parameters()):
        network = network.to(memory_format=torch.channels_last)  # convolutions run faster so, on a GPU and on a CPU
    if cfg.compile:
        network.compile()  # in place: the names in a checkpoint stay
    groups = instantiate(cfg.param_groups, _convert_="all")
    with _blame("param_groups"):
        groups(network, 1.0, 0.0)
    make = instantiate(cfg.task, _convert_="all")
    with _blame("task"):
        built: Task = make(network, optimizer, schedule(cfg), groups, data.metrics)
    return built


def trainer(cfg: DictConfig, folder: Path, objective: Objective) -> L.Trainer:
    """Lightning's Trainer with our logger and callbacks, writing into `folder`.

    Raises:
        ConfigError: more devices than there are, an unknown precision, and whatever else Lightning refuses.
    """
    callbacks: list[L.Callback] = [objective]
    for name, node in (cfg.callbacks or {}).items():
        with _blame(f"callbacks.{name}"):
            made = instantiate(node, _convert_="all")
            if name == "checkpoint":
                made = made(dirpath=folder / "checkpoints", config=plain(cfg), objective=objective)
            callbacks.append(made)
    with _blame("trainer"):
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
            **_enabled(cfg),
        )
    if built.strategy.root_device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    return built


def _enabled(cfg: DictConfig) -> dict[str, bool]:
    """What Lightning would add of its own, unless the user has decided."""
    ours = {"enable_checkpointing": "checkpoint", "enable_progress_bar": "progress"}
    return {
        key: name in (cfg.callbacks or {}) if cfg.trainer[key] is None else cfg.trainer[key]
        for key, name in ours.items()
    }


def _logger(cfg: DictConfig, folder: Path) -> Any:
    if not cfg.logger:
        return False
    with _blame("logger"):
        return instantiate(cfg.logger, _convert_="all")(save_dir=str(folder))


def checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint to continue from: `resume` itself, or the last of the run in that folder; None to start anew.

    Raises:
        ConfigError: there is none.
    """
    if cfg.resume is None:
        return None
    path = Path(cfg.resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"resume={cfg.resume}: there is no checkpoint {path}")
    return path


def choices(cfg: DictConfig, words: Mapping[str, str], total_batch_size: int) -> dict[str, Any]:
    """What a run's row on the HPARAMS page says; the page sorts by name and shows the first five at once.

    Args:
        cfg: the composed config.
        words: group to the word that was chosen.
        total_batch_size: examples of an optimizer step, over all processes and accumulated batches.
    """
    row: dict[str, Any] = {g: words[g] for g in ("optimizer", "schedule", "model", "data") if g in words}
    row |= {k: cfg.optimizer[k] for k in ("lr", "weight_decay") if k in cfg.optimizer}
    row |= {k: cfg.schedule[k] for k in _WARMUP if cfg.schedule.get(k) is not None}
    return row | {"total_batch_size": total_batch_size, "seed": cfg.seed}


def _target(cfg: DictConfig, group: str) -> Any:
    if cfg[group] is None:
        raise ConfigError(f"{group}: a run needs one; set {group}=WORD, python train.py --help lists the words")
    with _blame(group):
        return load(cfg[group]._target_)


@contextmanager
def _blame(key: str) -> Iterator[None]:
    """Turn what a constructor refuses into an answer that names the config key."""
    try:
        yield
    except InstantiationException as error:
        reason = error.__cause__ or error
        if not isinstance(reason, (ValueError, TypeError, MisconfigurationException, InstantiationException)):
            raise
        raise ConfigError(f"{key}: {_reason(reason)}") from error
    except ConfigError:
        raise
    except (HorizonError, UnknownTargetError, ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"{key}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return str(error).split("\nfull_key:")[0]

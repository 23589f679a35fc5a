"""What is refused before any data are loaded and any network or trainer is built."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import nn
from torch.optim import LBFGS, Optimizer

from stepsize import build, trained
from stepsize.blame import blame
from stepsize.build import target
from stepsize.callbacks.checkpoint import Checkpoint
from stepsize.callbacks.monitor import Monitor
from stepsize.callbacks.objective import Objective
from stepsize.config import Work
from stepsize.errors import ConfigError, suggestion
from stepsize.evaluations import evaluates_again
from stepsize.metrics import better
from stepsize.optimizer_arguments import FP16
from stepsize.param_groups import param_groups, read_patterns
from stepsize.preflight import holds_a_run
from stepsize.resume.start import start


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work, before any data is loaded and any network or trainer built.

    Raises:
        ConfigError: with the reason and what to do instead.
    """
    _check_ranges(cfg)
    source, model = target(cfg, "data"), target(cfg, "model")
    if model.accepts != source.kind:
        raise ConfigError(f"model: {model.__name__} takes {model.accepts}, but {source.__name__} gives {source.kind}")
    build.data(cfg)
    _check_metrics(cfg, [f"val/{m}" for m in ("loss", *source.metrics)])
    if cfg.mode == Work.test:
        _check_test(cfg)
    else:
        _check_resume(cfg)
    _check_checkpoint(cfg)
    _check_optimizer(cfg)
    multiplier = build.schedule(cfg)
    if cfg.trainer.max_epochs == -1 and cfg.trainer.max_steps == -1:
        with blame("schedule"):
            multiplier(0, None)


def _check_test(cfg: DictConfig) -> None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("mode=test: evaluates one network, and -m is for many runs; drop -m")
    trained.to_test(cfg)
    if holds_a_run(Path(cfg.run_dir)):
        raise ConfigError(f"run_dir={cfg.run_dir}: holds a run already; mode=test writes into a folder of its own")


def _check_resume(cfg: DictConfig) -> None:
    is_one_of_many = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if is_one_of_many and cfg.resume in ("auto", "latest"):
        raise ConfigError(
            f"resume={cfg.resume}: with -m each run has a folder of its own; continue one by resume= and its folder"
        )
    start(cfg, Path(cfg.run_dir))


def _check_checkpoint(cfg: DictConfig) -> None:
    chosen = (cfg.callbacks or {}).get("checkpoint")
    if chosen is None or "every_n_steps" not in chosen:
        return
    objective = Objective(cfg.objective.metric, str(cfg.objective.mode))
    with blame("callbacks.checkpoint"):
        Checkpoint("", {}, [], objective, every_n_steps=chosen.every_n_steps, every_minutes=chosen.every_minutes)


def _check_ranges(cfg: DictConfig) -> None:
    trainer = cfg.trainer
    for key, value, least in (
        ("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
        ("trainer.gradient_clip_val", trainer.gradient_clip_val, 0),
        ("seed", cfg.seed, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{key} must be at least {least}, got {value}")
    if trainer.max_epochs == 0 or trainer.max_steps == 0:
        raise ConfigError("trainer.max_epochs and trainer.max_steps must be at least 1, or -1 for no limit, got 0")
    if trainer.limit_val_batches == 0:
        raise ConfigError(
            "trainer.limit_val_batches=0: the objective is measured in validation; leave at least 1 batch"
        )
    if any(word in str(trainer.strategy) for word in ("spawn", "fork", "notebook")):
        raise ConfigError(f"trainer.strategy={trainer.strategy}: a run is more than can be pickled; take trainer=ddp")
    if cfg.objective.mode != better(cfg.objective.metric):
        raise ConfigError(
            f"objective.mode={cfg.objective.mode}: for {cfg.objective.metric} better is {better(cfg.objective.metric)}"
        )


def _check_metrics(cfg: DictConfig, logged: list[str]) -> None:
    watched = {"objective.metric": cfg.objective.metric, "task.monitor": cfg.task.monitor}
    for name, callback in (cfg.callbacks or {}).items():
        if callback is not None and "monitor" in callback:
            watched[f"callbacks.{name}.monitor"] = callback.monitor
    for key, metric in watched.items():
        if metric not in logged:
            raise ConfigError(f"{key}={metric}: never logged; {suggestion(str(metric), logged)}")


def _check_optimizer(cfg: DictConfig) -> None:
    make = build.optimizer(cfg, None)
    name = make.func.__name__
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    with blame("optimizer"):
        made = make([matrix])
    try:
        make([matrix, vector])
    except ValueError:
        raise ConfigError(
            f"optimizer: {name} takes matrices only, and every network has biases or norms; "
            "take one that treats the others too, such as optimizer=adamw"
        ) from None
    if evaluates_again(type(made)):
        if cfg.trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                f"optimizer: {name} evaluates a batch several times a step and cannot accumulate batches; set "
                "trainer.accumulate_grad_batches=1 and a larger data.batch_size"
            )
        if cfg.trainer.precision in FP16:
            raise ConfigError(
                f"optimizer: {name} evaluates a batch several times a step, which 16-mixed cannot scale; set "
                "trainer.precision=bf16-mixed or 32-true"
            )
    _check_monitor(cfg, made)
    if isinstance(made, LBFGS) and (cfg.param_groups.patterns or cfg.param_groups.layer_decay < 1):
        raise ConfigError(f"optimizer: {name} has one group of parameters; drop param_groups.patterns and layer_decay")
    if not getattr(made, "shardable", True) and "fsdp" in str(cfg.trainer.strategy).lower():
        raise ConfigError(
            f"optimizer: {name} takes norms or products of whole parameters, which FSDP cuts into shards; "
            "take trainer=ddp"
        )
    rules = build.rules(make)
    with blame("param_groups"):
        patterns = read_patterns(build.plain(cfg.param_groups)["patterns"])
        param_groups(nn.ParameterList([matrix, vector]), 1.0, 0.0, layer_decay=cfg.param_groups.layer_decay)
    for pattern in patterns:
        if pattern.rule is not None and pattern.rule not in rules:
            raise ConfigError(f"param_groups: {name} has no rule {pattern.rule!r}; {suggestion(pattern.rule, rules)}")


def _check_monitor(cfg: DictConfig, optimizer: Optimizer) -> None:
    monitor = (cfg.callbacks or {}).get("monitor")
    if monitor is None or "non_finite" not in monitor:
        return
    with blame("callbacks.monitor"):
        Monitor(monitor.non_finite, monitor.max_skipped_in_row)
    if monitor.non_finite == "skip" and evaluates_again(type(optimizer)):
        raise ConfigError(
            f"callbacks.monitor.non_finite=skip: {type(optimizer).__name__} moves the weights between evaluations of a "
            "batch, so a step cannot be left out; leave it at stop"
        )
    if monitor.non_finite == "skip" and cfg.trainer.precision in FP16:
        raise ConfigError(
            "callbacks.monitor.non_finite=skip: 16-mixed leaves out steps by itself, to find its scale; leave it at "
            "stop, or set trainer.precision=bf16-mixed or 32-true"
        )

"""Train what a config composes, and say how good it got."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stepsize import build, trained, trial
from stepsize.callbacks.objective import Objective
from stepsize.check import check
from stepsize.config import Work
from stepsize.loggers.table import Table
from stepsize.loggers.tensorboard import TensorBoard
from stepsize.preflight import refuse_used
from stepsize.result import recorded
from stepsize.resume.interrupted import interruptions_explained
from stepsize.resume.start import changes, keep_best, start
from stepsize.resume.unwritable import unwritable_explained

log = logging.getLogger(__name__)

# Lightning 2.6 calls what torch 2.13 deprecates; it counts the batches between two logs anew in each epoch, where the
# recipe counts the steps of the whole run; and it tells a resumed run of changed callbacks again, in a long line.
_NOT_OURS = (
    ".*treespec, LeafSpec.*",
    ".*smaller than the logging interval.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


def work(cfg: DictConfig) -> float:
    """What the command is to do: train, or test what is trained."""
    return evaluate(cfg) if cfg.mode == Work.test else train(cfg)


def train(cfg: DictConfig) -> float:
    """Seed, build, fit, test, result; returns the objective: the best value of `objective.metric` over the run.

    A trial of a sweep reports to it, and ends early, without a test, where the sweep says so.

    Args:
        cfg: composed from conf/train.yaml.

    Raises:
        ConfigError: a choice that cannot work; nothing has been loaded then.
        TrainingStoppedError: the loss was no longer finite.
        CheckpointError: a checkpoint could not be written.
        RunInterrupted: a signal asked the run to stop; it has been saved.
    """
    check(cfg)
    folder = run_folder(cfg)
    for message in _NOT_OURS:
        warnings.filterwarnings("ignore", message)
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    trainer, task, data, objective = build.assemble(cfg, folder)
    torch.manual_seed(cfg.seed + trainer.global_rank)  # networks start equal; dropout differs from process to process
    begun = start(cfg, folder)
    if begun is not None and trainer.is_global_zero:
        keep_best(begun, folder)
        log.info("goes on from %s, at step %s", os.path.relpath(begun.path), begun.step)
        for change in changes(cfg, begun):
            log.info("%s", change)
    if isinstance(trainer.logger, TensorBoard | Table):
        trainer.logger.go_on_from(begun.step if begun else 0)
    if isinstance(trainer.logger, TensorBoard):
        batch = cfg.data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        trainer.logger.log_choices(choices(cfg, words(), batch), [f"val/{m}" for m in reversed(task.metrics)])

    with (
        interruptions_explained(cfg, folder, trainer),
        unwritable_explained(folder),
        recorded(
            folder / "result.json",
            trainer,
            task,
            objective,
            cfg.data.batch_size,
            cfg.seed,
            resumed_from=begun.step if begun else None,
        ) as test,
    ):
        trainer.fit(task, data, ckpt_path=begun.path if begun else None, weights_only=True)
        if objective.pruned_at is None:
            test |= test_best(trainer, task, data, objective, folder)

    if trainer.is_global_zero:
        said = "  ".join(f"{k} {v:.4f}" for k, v in (objective.at_best | test).items())
        log.info("best %s, at step %s:  %s", objective.metric, objective.step, said)
        log.info("%s", os.path.relpath(folder))
    return objective.best


def evaluate(cfg: DictConfig) -> float:
    """Test what a run has trained, with its own choices; returns the objective's metric on the test data.

    Writes result.json into a folder of its own; the run's is only read.

    Args:
        cfg: composed from conf/train.yaml with the words of the run; `resume` names it, or one of its checkpoints.

    Raises:
        ConfigError: a choice that cannot work; nothing has been loaded then.
    """
    check(cfg)
    cfg = cfg.copy()
    cfg.logger = None  # a single value is no curve
    path = trained.to_test(cfg)
    folder = run_folder(cfg)
    for message in _NOT_OURS:
        warnings.filterwarnings("ignore", message)

    trainer, task, data, objective = build.assemble(cfg, folder)
    with (
        interruptions_explained(cfg, folder, trainer),
        recorded(folder / "result.json", trainer, task, objective, cfg.data.batch_size, cfg.seed, path) as test,
    ):
        test |= tested(trainer, task, data, path)

    if trainer.is_global_zero:
        log.info("%s:  %s", os.path.relpath(path), "  ".join(f"{k} {v:.4f}" for k, v in test.items()))
        log.info("%s", os.path.relpath(folder))
    return test[objective.metric.replace("val/", "test/")]


def test_best(
    trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule, objective: Objective, folder: Path
) -> Mapping[str, float]:
    """Test metrics of the run's best checkpoint, or of the last weights where it has none."""
    best = folder / "checkpoints" / "best.ckpt"
    known = objective.state_dict()
    test = tested(trainer, task, data, best if best.exists() else None)
    objective.load_state_dict(known)  # Lightning set it back to what it knew at the best
    return test


def tested(
    trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule, path: Path | None
) -> dict[str, float]:
    """Test metrics of a checkpoint, or of the present weights."""
    logged = trainer.test(task, data, ckpt_path=path, verbose=False, weights_only=True)[0]
    return {k: v for k, v in logged.items() if k.startswith("test/")}


def run_folder(cfg: DictConfig) -> Path:
    """The folder of this run: Hydra's where Hydra runs, else `run_dir`; refused where it holds another run."""
    folder = Path(HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else cfg.run_dir)
    refuse_used(folder, cfg.resume)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def choices(cfg: DictConfig, words: Mapping[str, str], total_batch_size: int) -> dict[str, Any]:
    """What a run's row on the HPARAMS page says; the page sorts by name and shows the first five at once.

    Args:
        cfg: the composed config.
        words: group to the word that was chosen.
        total_batch_size: examples of an optimizer step, over all processes and accumulated batches.
    """
    row: dict[str, Any] = {g: words[g] for g in ("optimizer", "schedule", "model", "data") if g in words}
    row |= {k: cfg.optimizer[k] for k in ("lr", "weight_decay") if k in cfg.optimizer}
    row |= {k: cfg.schedule[k] for k in build.WARMUP if cfg.schedule.get(k) is not None}
    searched = trial.current().params if trial.current() else {}  # type: ignore[union-attr]
    row |= {k: v for k, v in searched.items() if k not in row and k.removeprefix("optimizer.") not in row}
    return row | {"total_batch_size": total_batch_size, "seed": cfg.seed}


def words() -> dict[str, str]:
    """The word that was chosen for each group; empty where no Hydra composed the config."""
    if not HydraConfig.initialized():
        return {}
    return {str(k): str(v) for k, v in HydraConfig.get().runtime.choices.items()}

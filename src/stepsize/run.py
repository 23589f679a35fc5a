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

from stepsize import build, resume, trial
from stepsize.callbacks.objective import Objective
from stepsize.check import check
from stepsize.preflight import refuse_used
from stepsize.result import recorded
from stepsize.tensorboard import TensorBoard

log = logging.getLogger(__name__)

# Lightning 2.6 calls what torch 2.13 deprecates; and it counts the batches between two logs anew in each epoch, where
# the recipe counts the steps of the whole run.
_NOT_OURS = (".*treespec, LeafSpec.*", ".*smaller than the logging interval.*")


def train(cfg: DictConfig) -> float:
    """Seed, build, fit, test, result; returns the objective: the best value of `objective.metric` over the run.

    A trial of a sweep reports to it, and ends early, without a test, where the sweep says so.

    Args:
        cfg: composed from conf/train.yaml.

    Raises:
        ConfigError: a choice that cannot work; nothing has been loaded then.
        TrainingStoppedError: the loss was no longer finite.
    """
    check(cfg)
    folder = run_folder(cfg)
    for message in _NOT_OURS:
        warnings.filterwarnings("ignore", message)
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    trainer, task, data, objective = build.assemble(cfg, folder)
    torch.manual_seed(cfg.seed + trainer.global_rank)  # networks start equal; dropout differs from process to process
    start = resume.checkpoint(cfg)
    if start is not None and trainer.is_global_zero:
        resume.keep_best(start, folder)
    if isinstance(trainer.logger, TensorBoard):
        batch = cfg.data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        trainer.logger.log_choices(choices(cfg, words(), batch), [f"val/{m}" for m in reversed(task.metrics)])

    with recorded(folder / "result.json", trainer, task, objective, cfg.data.batch_size, cfg.seed) as test:
        trainer.fit(task, data, ckpt_path=start, weights_only=True)
        if objective.pruned_at is None:
            test |= test_best(trainer, task, data, objective, folder)

    if trainer.is_global_zero:
        said = "  ".join(f"{k} {v:.4f}" for k, v in (objective.at_best | test).items())
        log.info("best %s, at step %s:  %s", objective.metric, objective.step, said)
        log.info("%s", os.path.relpath(folder))
    return objective.best


def test_best(
    trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule, objective: Objective, folder: Path
) -> Mapping[str, float]:
    """Test metrics of the run's best checkpoint, or of the last weights where it has none."""
    best = folder / "checkpoints" / "best.ckpt"
    known = objective.state_dict()
    tested = trainer.test(task, data, ckpt_path=best if best.exists() else None, verbose=False, weights_only=True)[0]
    objective.load_state_dict(known)  # Lightning set it back to what it knew at the best
    return {k: v for k, v in tested.items() if k.startswith("test/")}


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

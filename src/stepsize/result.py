"""result.json: what a run was and how it ended, written whatever happens."""

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L

from stepsize.callbacks.monitor import Monitor
from stepsize.callbacks.objective import Objective
from stepsize.data.files import whole_file
from stepsize.errors import RunInterrupted, TrainingStoppedError


@contextmanager
def recorded(
    path: Path,
    trainer: L.Trainer,
    task: L.LightningModule,
    objective: Objective,
    batch_size: int,
    seed: int,
    tested: Path | None = None,
    resumed_from: int | None = None,
) -> Iterator[dict[str, float]]:
    """Write `path` when the block ends, also by an error; yields the dict that test metrics go into.

    Args:
        path: the file; only process 0 writes it.
        trainer: runs the training; read for steps and epochs.
        task: counted for its parameters.
        objective: knows the best and last metrics.
        batch_size: examples a process takes a batch.
        seed: the run's.
        tested: the checkpoint, where a network is tested and none trained.
        resumed_from: optimizer steps of the checkpoint that training went on from. Steps, epochs and examples are
            counted from the beginning of the run, `wall_seconds` from here: a killed process leaves no time behind.
    """
    started = time.monotonic()
    test: dict[str, float] = {}
    ended = "finished"
    try:
        yield test
        if objective.pruned_at is not None:
            ended = f"pruned at step {objective.pruned_at}"
    except TrainingStoppedError as error:
        ended = f"stopped: {error}"
        raise
    except RunInterrupted as error:
        ended = f"interrupted by {error.signal} at step {error.step}"
        raise
    except (KeyboardInterrupt, SystemExit):
        ended = "interrupted"
        raise
    except BaseException as error:
        ended = f"failed: {type(error).__name__}: {error}"
        raise
    finally:
        if trainer.is_global_zero:
            loop = trainer.fit_loop.epoch_loop
            watches = [c.watch for c in trainer.callbacks if isinstance(c, Monitor)]  # type: ignore[attr-defined]
            _write(
                path,
                {
                    "ended": ended,
                    "checkpoint": None if tested is None else str(tested),
                    "objective": {
                        "metric": objective.metric,
                        "mode": objective.mode,
                        "best": objective.best,
                        "step": objective.step,
                    },
                    "best": objective.at_best,
                    "last": objective.last,
                    "test": test,
                    "steps": trainer.global_step,
                    "skipped_steps": sum(watch.skipped for watch in watches),
                    "epochs": trainer.current_epoch,
                    "examples": (loop.total_batch_idx + 1) * batch_size * trainer.world_size,
                    "resumed_from_step": resumed_from,
                    "wall_seconds": round(time.monotonic() - started, 3),
                    "parameters": sum(p.numel() for p in task.parameters()),
                    "seed": seed,
                    "command": sys.orig_argv,
                    "git_commit": _git_commit(),
                    "versions": {"python": platform.python_version()}
                    | {name: version(name) for name in ("stepsize", "torch", "lightning", "hydra-core")},
                    "device": str(trainer.strategy.root_device),
                    "world_size": trainer.world_size,
                },
            )


def _write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all; what is not finite becomes null, which JSON can say."""
    with whole_file(path) as file:
        file.write((json.dumps(_finite(result), indent=2) + "\n").encode())


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {k: _finite(v) for k, v in value.items()}
        case float() if not math.isfinite(value):
            return None
    return value


def _git_commit() -> str | None:
    """The checkout's commit, with "+" where files differ from it; None outside a checkout or without git."""
    try:
        answers = [
            subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0] + ("+" if answers[1] else "")

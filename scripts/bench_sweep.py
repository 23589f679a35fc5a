"""Trials a minute: the fork server against a plain process a trial and Hydra's basic launcher in one process.

    python scripts/bench_sweep.py                      # 100 trials each of about a second on the digits, in turns of 10
    python scripts/bench_sweep.py --trials 20 --words data=mnist1d model=convnet trainer.max_epochs=2

All sides run the same trials: random learning rates, the same in the same turn. `fork server` is what
`python train.py -m sweep=lr` does: Optuna on SQLite, claiming, telling, a terminal line, reports of each validation,
one worker. `in process` is Hydra's basic launcher, without a study. `plain process` is `python train.py WORDS` for
each, of which every turn runs two. Turns are interleaved in one driver; the minimum over turns of seconds a trial is
printed, and the ratios of those. What a sweep does once is not counted, neither its start and the fork server's nor the
report: it is timed from the end of its first trial to the end of its last.
"""

import argparse
import contextlib
import io
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import torch
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from stepsize.config import CONF, register
from stepsize.run import train

TRAIN = CONF.parent / "train.py"
WORDS = ("data=digits", "model=mlp", "trainer=cpu", "trainer.max_epochs=30")


def application(words: Sequence[str]) -> tuple[HydraContext, DictConfig]:
    """What Hydra gives its basic launcher for a command line."""
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration("train", list(words), RunMode.MULTIRUN)
    with open_dict(config):
        config.hydra.job.name, config.hydra.job.config_name = "train", "train"
        config.hydra.runtime.cwd = os.getcwd()
    return HydraContext(config_loader=loader, callbacks=Callbacks(config)), config


def swept(words: Sequence[str], folder: Path, count: int, seed: int) -> float:
    """Run `count` trials by a sweep of their own; returns seconds a trial, from the end of the first to the last's."""
    lines = [f"sweep.n_trials={count}", f"sweep.seed={seed}", "sweep.sampler=random", f"sweep.study=turn{seed}"]
    place = f"hydra.sweep.dir={folder}/turn{seed}"
    command = [sys.executable, str(TRAIN), "-m", *words, "sweep=lr", *lines, place]
    subprocess.run(command, check=True, capture_output=True)
    trials = optuna.load_study(study_name=f"turn{seed}", storage=f"sqlite:///{folder}/turn{seed}/study.db").trials
    ends = sorted(t.datetime_complete for t in trials if t.datetime_complete)
    return (ends[-1] - ends[0]).total_seconds() / (len(ends) - 1)


def rates(folder: Path, seed: int) -> list[float]:
    """The learning rates of a turn's trials, as the sweep has drawn them."""
    lines = (folder / f"turn{seed}" / "trials.csv").read_text().splitlines()
    column = lines[0].split(",").index("optimizer.lr")
    return [float(line.split(",")[column]) for line in lines[1:]]


def in_process(words: Sequence[str], folder: Path, seed: int, lr: Sequence[float]) -> float:
    """Run trials by Hydra's basic launcher; returns seconds a trial."""
    context, config = application([*words, f"hydra.sweep.dir={folder}/basic{seed}"])
    launcher: Launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=train, config=config
    )
    started = time.monotonic()
    with silence():
        launcher.launch([[*words, f"optimizer.lr={x!r}", f"hydra.sweep.dir={folder}/basic{seed}"] for x in lr], 0)
    return (time.monotonic() - started) / len(lr)


def plain(words: Sequence[str], folder: Path, seed: int, lr: Sequence[float]) -> float:
    """Run each trial by a command of its own; returns seconds a trial."""
    started = time.monotonic()
    for index, x in enumerate(lr):
        command = [sys.executable, str(TRAIN), *words, f"optimizer.lr={x!r}", f"run_dir={folder}/plain{seed}/{index}"]
        subprocess.run(command, check=True, capture_output=True)
    return (time.monotonic() - started) / len(lr)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed inside the block."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="of the fork server and in process")
    parser.add_argument("--turn", type=int, default=10, help="trials of a turn")
    parser.add_argument("--words", nargs="*", default=list(WORDS), help="what each trial trains")
    options = parser.parse_args()
    if not 2 <= options.turn <= options.trials:
        parser.error("--turn must be at least 2 and at most --trials")
    register()
    random.seed(0)
    best = {"plain process": math.inf, "in process": math.inf, "fork server": math.inf}
    trained = math.inf
    with tempfile.TemporaryDirectory() as temporary, initialize_config_dir(str(CONF), version_base="1.3"):
        folder = Path(temporary)
        for turn in tqdm(range(options.trials // options.turn), desc="turns", disable=None):
            took = {"fork server": swept(options.words, folder, options.turn, turn)}
            lr = rates(folder, turn)
            took["in process"] = in_process(options.words, folder, turn, lr)
            took["plain process"] = plain(options.words, folder, turn, lr[:2])
            best = {side: min(best[side], took[side]) for side in best}
            for result in (folder / f"turn{turn}").glob("*/result.json"):
                trained = min(trained, OmegaConf.load(result).wall_seconds)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{options.trials} trials of {' '.join(options.words)}; the fit of one takes {trained:.2f} s")
    for side, each in best.items():
        print(f"{side:<14} {each:6.2f} s a trial  {60 / each:6.1f} trials a minute")
    print(f"fork server: {best['plain process'] / best['fork server']:.2f} x the trials of the plain process")
    print(f"fork server: {best['fork server'] / best['in process']:.2f} x the seconds of in process")


if __name__ == "__main__":
    main()

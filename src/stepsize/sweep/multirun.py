"""A Hydra multirun as a sweep: from the plugin's arguments to trials, files and an exit code."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna import logging as optuna_logging
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage

from stepsize.errors import ConfigError
from stepsize.sweep import best, report, storage, trials_csv
from stepsize.sweep.arms import Arm, arms, study_name
from stepsize.sweep.driver import Driver
from stepsize.sweep.fork_server import ForkServer
from stepsize.sweep.job import TrialTask
from stepsize.sweep.launch import Application
from stepsize.sweep.options import Options, read
from stepsize.sweep.read import read as read_results
from stepsize.sweep.results import SweepResult
from stepsize.sweep.runners import Batches, Pool, Runner
from stepsize.sweep.space import command_line, linear_rates
from stepsize.sweep.sweep import About, Sweep, check, facts
from stepsize.sweep.terminal import Terminal

# What every trial imports, besides what the launcher's config says: Optuna loads the last two as it opens a storage.
_PRELOAD = ("stepsize.sweep.job", "stepsize.sweep.parsers", "alembic.command", "sqlalchemy.dialects.sqlite")

_MOST_CHOICES = 16  # of an arm, whose configs are composed ahead: each takes 0.1 s, and saves as much in every trial


class Multirun:
    """What Hydra gives a sweeper, put to use.

    Args:
        options: of the sweep, as plain data.
        context: Hydra's.
        task: what is swept.
        config: composed from the words that are no sweep.

    Raises:
        ConfigError: an option that there is not, or out of its range.
    """

    def __init__(
        self, options: Mapping[str, Any], context: HydraContext, task: TaskFunction, config: DictConfig
    ) -> None:
        self.options: Options = read(options)
        self.context, self.task, self.config = context, task, config
        words = OmegaConf.to_container(config.hydra.overrides.task)
        assert isinstance(words, list)
        choices = {str(k): v for k, v in config.hydra.runtime.choices.items()}
        self.name = study_name(self.options, [str(w) for w in words], choices, context.config_loader)
        if self.options.storage is not None:
            storage.check(self.options.storage)
        with read_write(config), open_dict(config):  # where the trials' folders are follows from the name
            config.hydra.sweeper.study = self.name

    @property
    def folder(self) -> Path:
        """Of the sweep, as Hydra names it."""
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    @property
    def url(self) -> str:
        """Of the storage."""
        return storage.absolute(self.options.storage) if self.options.storage else storage.file_url(self.folder)

    def trial_task(self) -> TrialTask:
        """The task, as a trial."""
        return TrialTask(self.task, self.url, self.options.pruner)

    def run(self, arguments: Sequence[str], launcher: Launcher | None) -> float | None:
        """Run the sweep to its end; returns the best objective, None where there is none.

        Args:
            arguments: the words of the command line.
            launcher: runs trials in batches; None has them run by the fork server.

        Raises:
            SystemExit: 130 after Ctrl-C, 143 after SIGTERM; the same command goes on.
            SweepStoppedError: more trials failed than the user allows.
        """
        workers = self.options.workers
        runner: Runner
        found = arms(self.options, arguments, self._compose, self.context.config_loader)
        if launcher is None:
            expected = [words for arm in found for words in _choices(arm)]
            application = Application(self.context, self.config, self.trial_task(), expected)
            server = ForkServer(self._preload(), application.packed())
            server.warm()
            runner = Pool(server, workers, self.folder)
        else:
            runner = Batches(launcher, workers, self.folder)
        optuna_logging.set_verbosity(optuna_logging.ERROR)
        meeting = {"storage": storage.shown(self.url)} if self.options.storage else {}
        hydra = [str(text) for text in self.config.hydra.overrides.hydra if not text.startswith("hydra.mode=")]
        about = About(self.name, _program(), tuple(arguments), tuple(hydra), facts() | meeting)
        check(self.options, found)
        self._refuse_another_sweeps_folder()
        for line in dict.fromkeys(line for arm in found for line in linear_rates(arm.space)):
            print(f"warning: {line}")
        if self.options.storage is None:
            self._make_folder()
        opened = storage.connect(self.url)
        sweep = Sweep(opened, self.options, found, about)
        if sweep.is_complete():
            return self._end(opened, sweep, Terminal(sweep, opened), finished=True)
        self._make_folder()
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        terminal = Terminal(sweep, opened)
        terminal.say(f"study {self.name}: {' of '.join(map(str, sweep.progress()))} trials finished; {self._where()}")
        driver = Driver(sweep, runner, self.options.max_failures, terminal.told, terminal.say)
        try:
            driver.run(raises=launcher is not None)
        finally:
            runner.close()
            value = self._end(opened, sweep, terminal)
        if driver.received is not None:
            print(f"interrupted; to go on: {about.command}")
            raise SystemExit(128 + driver.received)
        return value

    def _refuse_another_sweeps_folder(self) -> None:
        """Each keeps its trials by their numbers and its files by fixed names, which would replace another's."""
        path = self.folder / "multirun.yaml"
        if path.exists():
            other = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.study")
            if other not in (None, self.name):
                place = os.path.relpath(self.folder)
                raise ConfigError(
                    f"hydra.sweep.dir={place}: study {other} lies there; {self.name} needs another folder"
                )

    def _preload(self) -> list[str]:
        """Modules that every trial imports: the task's, Hydra's plugins, and those of the config's targets."""
        found = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(found, dict)
        plugins = [name for name in sys.modules if name.startswith(("hydra._internal.core_plugins.", "hydra_plugins."))]
        wanted = [*self.config.hydra.launcher.get("preload", []), *_PRELOAD, *plugins]
        return [*wanted, *dict.fromkeys(_modules({k: v for k, v in found.items() if k != "hydra"}))]

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"hydra.sweep.dir={self.folder}: cannot be made: {error.strerror}") from error

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.context.config_loader.load_sweep_config(self.config, list(overrides))

    def _where(self) -> str:
        return os.path.relpath(self.folder) if self.options.storage is None else storage.shown(self.url)

    def _end(self, opened: BaseStorage, sweep: Sweep, terminal: Terminal, finished: bool = False) -> float | None:
        result = read_results(opened, self.name)
        left = write(opened, result, self.folder)
        terminal.end(result, left)
        if finished:
            more = 2 * max(self.options.n_trials, result.n_trials)
            print(f"study {self.name} is finished; sweep.n_trials={more} extends it, sweep.study=NAME begins another")
        arm = best.best_arm(result)
        found = result.best(arm) if arm else None
        return found.value if found else None


def write(opened: BaseStorage, result: SweepResult, folder: Path) -> list[Path]:
    """The files that a sweep leaves: trials.csv, best.yaml, report.html and the plots; returns those to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    trials_csv.write(result, folder / "trials.csv")
    best.write(opened, result, folder / "best.yaml")
    page = report.write(result, folder)
    return [Path(os.path.relpath(path)) for path in (folder / "best.yaml", page) if path.exists()]


def _choices(arm: Arm) -> Iterator[list[str]]:
    """Words of the arm's trials, one line for each choice they can make, of which the first are enough."""
    choices = {name: d.choices for name, d in arm.space.items() if isinstance(d, CategoricalDistribution)}
    for values in islice(product(*choices.values()), _MOST_CHOICES):
        yield command_line(arm.overrides, dict(zip(choices, values, strict=True)))


def _modules(config: Any) -> Iterator[str]:
    """The modules of a config's targets."""
    match config:
        case dict():
            if isinstance(target := config.get("_target_"), str) and "." in target and "?" not in target:
                yield target.rpartition(".")[0]
            for value in config.values():
                yield from _modules(value)
        case list():
            for value in config:
                yield from _modules(value)


def _program() -> tuple[str, ...]:
    return ("python", sys.argv[0])

"""One Hydra job in a process of its own: what a launcher hands over, and what the process does with it."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cloudpickle
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from stepsize.sweep.composing import Composer


@dataclass(frozen=True)
class Application:
    """A Hydra application.

    Args:
        context, config, task: what Hydra gives a launcher.
        expected: words of jobs that are likely to come, to be quick with those that choose the same.
    """

    context: HydraContext
    config: DictConfig
    task: Callable[[Any], Any]
    expected: Sequence[Sequence[str]] = ()

    def packed(self) -> bytes:
        """A packed call that `ForkServer` makes once, for all processes that `run` or `trial` this application."""
        return bytes(cloudpickle.dumps(partial(take, self, Singleton.get_state())))


class Files(CachingConfigRepository):
    """Config files as they were when they were first read; Hydra itself reads all of them anew for every job."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Files":
        same = Files(self.delegate)  # a copy: Hydra changes the sources of what it copies, where a config names others
        same.cache = self.cache
        return same

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Look in other places, and forget what was found in these."""
        self.cache = {}
        super().initialize_sources(config_search_path)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """A file's content, the caller's own to change."""
        return copy.deepcopy(super().load_config(config_path))


_taken: tuple[Application, Composer] | None = None


def take(application: Application, singletons: Any) -> None:
    """Make this process, and those that are forked from it, ready to run jobs of an application.

    What is expected is composed once, without the words that set values. Files have been read then, and parsers have
    learnt their grammars; nothing has been resolved, so that no name or time that is drawn is seen by a job.

    Args:
        application: to run.
        singletons: that Hydra keeps.
    """
    global _taken
    loader: Any = application.context.config_loader
    loader.repository = Files(loader.repository)
    Singleton.set_state(singletons)
    setup_globals()
    composer = Composer(loader, application.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has composed it, and warned
        for words in application.expected:
            composer.keep(words)
        OmegaConf.to_yaml(application.config)
    _taken = application, composer


def call(job: Callable[..., Any], overrides: Sequence[str], number: int) -> bytes:
    """A packed call of `run` or `trial`."""
    return bytes(cloudpickle.dumps(partial(job, list(overrides), number)))


def run(overrides: Sequence[str], number: int) -> JobReturn:
    """Compose and run a job of the application as Hydra's own launchers do.

    Args:
        overrides: of the job.
        number: `hydra.job.num`.
    """
    assert _taken is not None
    application, composer = _taken
    sweep_config = composer.compose(overrides)
    with open_dict(sweep_config):
        sweep_config.hydra.job.id = f"{sweep_config.hydra.job.name}_{number}"
        sweep_config.hydra.job.num = number
    HydraConfig.instance().set_config(sweep_config)
    return run_job(
        hydra_context=application.context,
        task_function=application.task,
        config=sweep_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def trial(overrides: Sequence[str], number: int) -> Any:
    """Run a job and return what its task returned; raises what the task raised."""
    returned = run(overrides, number)
    if isinstance(returned._return_value, BaseException):
        raise returned._return_value
    return returned._return_value

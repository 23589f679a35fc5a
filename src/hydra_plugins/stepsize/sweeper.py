"""The sweeper: `hydra/sweeper=stepsize`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from stepsize.errors import ConfigError, SweepStoppedError
from stepsize.sweep.options import Options


class StepsizeSweeper(Sweeper):
    """Searches with Optuna; the options are those of `stepsize.sweep.options.Options`."""

    def __init__(self, **options: Any) -> None:
        self.options = {k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for k, v in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the options and name the study."""
        from hydra.core.plugins import Plugins
        from hydra.utils import get_class

        from hydra_plugins.stepsize.launcher import ForkServerLauncher
        from stepsize.sweep.job import Traced
        from stepsize.sweep.multirun import Multirun

        with _in_one_line():
            self.multirun = Multirun(self.options, hydra_context, task_function, config)
        self.launcher = None  # the fork server needs none: it hands each worker its next trial when it is free
        if not issubclass(get_class(config.hydra.launcher._target_), ForkServerLauncher):
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=Traced(self.multirun.trial_task()), config=config
            )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials; returns the best objective."""
        with _in_one_line():
            return self.multirun.run(arguments, self.launcher)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Let the user's errors be Hydra's: of all others it prints the traceback."""
    try:
        yield
    except (ConfigError, SweepStoppedError) as error:
        raise CompactHydraException(str(error)) from error


node: dict[str, Any] = {"_target_": f"{__name__}.{StepsizeSweeper.__name__}", **asdict(Options())}
ConfigStore.instance().store(group="hydra/sweeper", name="stepsize", node=node, provider="stepsize")

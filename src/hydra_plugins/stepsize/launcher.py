"""The launcher: `hydra/launcher=forkserver`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ForkServerLauncher(Launcher):
    """Runs each job in a fresh process that has `preload` imported already.

    Args:
        workers: jobs at once, 1 or more.
        preload: modules that the server imports, so that no job has to.
    """

    def __init__(self, workers: int = 1, preload: Sequence[str] = ()) -> None:
        self.workers = workers
        self.preload = tuple(preload)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs are made of."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, `workers` at a time; returns what each returned, in their order."""
        from stepsize.sweep.launching import launch

        return launch(self.context, self.config, self.task, job_overrides, initial_job_idx, self.workers, self.preload)


node: dict[str, Any] = {"_target_": f"{__name__}.{ForkServerLauncher.__name__}", "workers": 1, "preload": []}
ConfigStore.instance().store(group="hydra/launcher", name="forkserver", node=node, provider="stepsize")

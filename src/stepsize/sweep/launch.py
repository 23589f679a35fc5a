"""One Hydra job in a process of its own: what a launcher hands over, and what the process does with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict


@dataclass(frozen=True)
class Application:
    """A Hydra application, packed once and unpacked in each process.

    Args:
        packed: context, config and task function, and the singletons that Hydra keeps.
    """

    packed: bytes

    @classmethod
    def pack(cls, context: HydraContext, config: DictConfig, task: Callable[[Any], Any]) -> "Application":
        """Pack what `run` needs."""
        return cls(cloudpickle.dumps((context, config, task, Singleton.get_state())))

    def call(self, job: Callable[..., Any], overrides: Sequence[str], number: int) -> bytes:
        """A packed call of `run` or `trial`."""
        return bytes(cloudpickle.dumps(partial(job, self.packed, list(overrides), number)))


def run(packed: bytes, overrides: Sequence[str], number: int) -> JobReturn:
    """Compose and run a job as Hydra's own launchers do.

    Args:
        packed: of an `Application`.
        overrides: of the job.
        number: `hydra.job.num`.
    """
    context, config, task, singletons = cloudpickle.loads(packed)
    Singleton.set_state(singletons)
    setup_globals()
    sweep_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(sweep_config):
        sweep_config.hydra.job.id = f"{sweep_config.hydra.job.name}_{number}"
        sweep_config.hydra.job.num = number
    HydraConfig.instance().set_config(sweep_config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=sweep_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def trial(packed: bytes, overrides: Sequence[str], number: int) -> Any:
    """Run a job and return what its task returned; raises what the task raised."""
    returned = run(packed, overrides, number)
    if isinstance(returned._return_value, BaseException):
        raise returned._return_value
    return returned._return_value

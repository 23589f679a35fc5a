"""What stands in for a command line and for processes where a test needs neither."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stepsize.config import CONF
from stepsize.sweep.arms import Arm, arms, study_name
from stepsize.sweep.job import Ended
from stepsize.sweep.options import read
from stepsize.sweep.plan import Claimed
from stepsize.sweep.runners import Failed, Started
from stepsize.sweep.study import Study


class Typed:
    """What a sweeper has of `python train.py -m WORDS`."""

    def __init__(self, *words: str) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            self._loader = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
            self.config = self._loader.load_configuration("train", [*words], run_mode=RunMode.MULTIRUN)
        given = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        assert isinstance(given, dict)
        self.options = read({str(k): v for k, v in given.items() if k != "_target_"})
        self.words = [str(word) for word in self.config.hydra.overrides.task]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a trial."""
        return self._loader.load_sweep_config(self.config, [*overrides])

    def arms(self) -> list[Arm]:
        """What is searched."""
        return arms(self.options, self.words, self.compose, self._loader)

    def name(self) -> str:
        """Of the study."""
        choices = {str(k): v for k, v in self.config.hydra.runtime.choices.items()}
        return study_name(self.options, self.words, choices, self._loader)


class InProcess:
    """A runner whose trials end as `ends(parameters, number)` says, as soon as they are asked for, the oldest first.

    Args:
        ends: what a trial ends as; what it raises, `ended` raises.
        workers: trials that run at once.
    """

    def __init__(self, ends: Callable[[Mapping[str, Any], int], Ended | Failed], workers: int = 1) -> None:
        self.ends, self.workers = ends, workers
        self.running: list[Started] = []
        self.most = 0

    def start(self, study: Study, claimed: Claimed) -> Started:
        self.running.append(Started(study, claimed, time.monotonic()))
        self.most = max(self.most, len(self.running))
        return self.running[-1]

    def ended(self, timeout: float) -> list[tuple[Started, Ended | Failed]]:
        found = [(first, self.ends(first.claimed.params, first.claimed.number)) for first in self.running[:1]]
        del self.running[:1]
        return found

    def stop(self, patience: float, hurry: Callable[[], bool]) -> list[tuple[Started, Ended | Failed]]:
        left, self.running = self.running, []
        return [(started, Failed("interrupted", interrupted=True)) for started in left]

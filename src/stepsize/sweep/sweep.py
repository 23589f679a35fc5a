"""The stages of a sweep: each arm's search, and then, where asked for, the best of each with fresh seeds."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage

from stepsize.errors import ConfigError
from stepsize.sweep import samplers, space
from stepsize.sweep.arms import Arm
from stepsize.sweep.options import Options
from stepsize.sweep.plan import Claimed, Plan
from stepsize.sweep.samplers import combinations, num_combinations
from stepsize.sweep.study import Study

# What is searched in these changes nothing of the network before its first step.
_SAME_START = ("optimizer", "schedule", "param_groups", "trainer")


@dataclass(frozen=True)
class About:
    """What a sweep's studies say of it, so that a report can be made from storage alone.

    Args:
        name: of the sweep.
        program: what the user typed before the words, such as ("python", "train.py").
        arguments: the words.
        hydra: the words that are Hydra's own, such as hydra.sweep.dir=PATH.
        facts: versions and the like.
    """

    name: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    hydra: tuple[str, ...]
    facts: Mapping[str, str]

    @property
    def command(self) -> str:
        """What continues the sweep."""
        return shlex.join([*self.program, "-m", *self.arguments, *self.hydra])


def check(options: Options, arms: Sequence[Arm]) -> None:
    """Refuse what no study can be made of, before one is.

    Raises:
        ConfigError: the sampler cannot search a space, or there is no seed to change.
    """
    for arm in arms:
        samplers.resolve(options.sampler, arm.space, options.n_trials)
        if options.confirm_seeds and not isinstance(arm.config.get("seed"), int):
            raise ConfigError("sweep.confirm_seeds: the config has no key seed, a whole number, to be changed")


class Sweep:
    """Hands out the next trial of whatever stage there is something to do in.

    Args:
        storage: where the studies are.
        options: of the sweep.
        arms: what is searched; `check` has not refused it.
        about: what the studies say of the sweep.

    Raises:
        ConfigError: a study was made by another command.
    """

    def __init__(self, storage: BaseStorage, options: Options, arms: Sequence[Arm], about: About) -> None:
        self.storage, self.options, self.arms, self.about = storage, options, arms, about
        self.searches = [Study(storage, self._search(index, arm)) for index, arm in enumerate(arms)]
        self._confirmations: dict[int, Study] = {}

    def studies(self) -> list[Study]:
        """All that have begun."""
        return [*self.searches, *self._confirmations.values()]

    def claim(self) -> tuple[Study, Claimed] | None:
        """The next trial of any stage; None where nothing is left, or only what others run."""
        for index, search in enumerate(self.searches):
            if claimed := search.claim():
                return search, claimed
            if self.options.confirm_seeds and search.is_complete():
                confirmation = self._confirmation(index)
                if confirmation and (claimed := confirmation.claim()):
                    return confirmation, claimed
        return None

    def is_complete(self) -> bool:
        """Whether all trials of all stages have finished."""
        return all(
            search.is_complete()
            and (not self.options.confirm_seeds or not (c := self._confirmation(i)) or c.is_complete())
            for i, search in enumerate(self.searches)
        )

    def progress(self) -> tuple[int, int]:
        """Finished trials and wanted ones, over all stages."""
        wanted = sum(study.target for study in self.searches) + len(self.arms) * self.options.confirm_seeds
        return sum(study.finished() for study in self.studies()), wanted

    def _search(self, index: int, arm: Arm) -> Plan:
        options = self.options
        name = f"{self.about.name}/{arm.name}" if arm.name else self.about.name
        sampler = samplers.resolve(options.sampler, arm.space, options.n_trials)
        listed, n_trials = {}, options.n_trials
        if sampler == "listed":
            listed, n_trials = combinations(arm.space), min(options.n_trials, num_combinations(arm.space))
        return Plan(
            name=name,
            folder=arm.name.replace("/", "_"),
            space=arm.space,
            overrides=arm.overrides,
            sampler=sampler,
            n_trials=n_trials,
            mode=options.mode,
            seed=options.seed,
            pruner=options.pruner,
            rate=arm.derived,
            listed=listed,
            fingerprint={
                "config": dict(arm.config),
                "sweep": {"sampler": options.sampler, "seed": options.seed, "pruner": options.pruner},
                "objective": [options.metric, options.mode],
            },
            about={
                "sweep": {
                    "name": self.about.name,
                    "metric": options.metric,
                    "mode": options.mode,
                    "n_trials": n_trials,
                    "sampler": "grid" if sampler == "listed" else sampler,
                    "pruner": options.pruner,
                    "command": self.about.command,
                    "program": list(self.about.program),
                    "workers": options.workers,
                    "facts": dict(self.about.facts),
                },
                "arm": {
                    "name": arm.name,
                    "index": index,
                    "words": list(arm.words),
                    "overrides": list(arm.overrides),
                    "rate": options.rate if options.rate in arm.space else None,
                    "space": space.to_json(arm.space),
                    "choices": dict(arm.choices),
                    "departures": dict(arm.departures),
                    "confirms": None,
                },
                "metric_names": [options.metric],
                "wants_start": all(name.lstrip("+").split(".")[0] in _SAME_START for name in arm.space),
            },
        )

    def _confirmation(self, index: int) -> Study | None:
        """The study of an arm's best trial with fresh seeds; None where no trial of the arm is complete."""
        if index not in self._confirmations:
            search, arm = self.searches[index], self.arms[index]
            best = search.best()
            if best is None:
                return None
            seed = arm.config["seed"]
            plan = self._search(index, arm)
            about = {**plan.about, "arm": {**plan.about["arm"], "confirms": best.number}}
            del about["wants_start"]
            seeds = list(range(seed + 1, seed + 1 + 100 * self.options.confirm_seeds))
            confirm = replace(
                plan,
                name=f"{plan.name}/confirm/{best.number}",
                folder=str(Path(plan.folder) / "confirm" / str(best.number)),
                space={"seed": IntDistribution(0, 2**31 - 1)},
                overrides=tuple(space.command_line(plan.overrides, best.params)),
                sampler="listed",
                n_trials=self.options.confirm_seeds,
                rate=None,
                listed={"seed": seeds},
                fingerprint={**plan.fingerprint, "best": dict(best.params)},
                about=about,
            )
            self._confirmations[index] = Study(self.storage, confirm)
        return self._confirmations[index]


def facts() -> dict[str, str]:
    """What the foot of a report says of how it came about."""
    import platform
    from importlib.metadata import version

    found: dict[str, Any] = {"python": platform.python_version()}
    found |= {name: version(name) for name in ("stepsize", "torch", "lightning", "hydra-core", "optuna")}
    return {"versions": ", ".join(f"{name} {v}" for name, v in found.items())}

"""From a storage to plain results, at any time: while a sweep runs as well as after it."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from stepsize.errors import ConfigError, suggestion
from stepsize.sweep import space
from stepsize.sweep.command import command
from stepsize.sweep.plan import best
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult

_STATES = {
    TrialState.WAITING: State.waiting,
    TrialState.RUNNING: State.running,
    TrialState.COMPLETE: State.complete,
    TrialState.PRUNED: State.pruned,
    TrialState.FAIL: State.failed,
}


def names(storage: BaseStorage) -> list[str]:
    """The sweeps that a storage holds."""
    return sorted({s.user_attrs["sweep"]["name"] for s in storage.get_all_studies() if "sweep" in s.user_attrs})


def read(storage: BaseStorage, name: str) -> SweepResult:
    """What a sweep has found so far.

    Raises:
        ConfigError: the storage holds no such sweep.
    """
    studies = [
        optuna.load_study(study_name=s.study_name, storage=storage)
        for s in storage.get_all_studies()
        if s.user_attrs.get("sweep", {}).get("name") == name
    ]
    if not studies:
        raise ConfigError(f"{name}: there is no such sweep; {suggestion(name, names(storage))}")
    studies.sort(key=lambda s: s.user_attrs["arm"]["index"])
    sweep = studies[0].user_attrs["sweep"]
    confirming = {(s.user_attrs["arm"]["name"], s.user_attrs["arm"]["confirms"]): s for s in studies}
    searching = [s for s in studies if s.user_attrs["arm"]["confirms"] is None]
    arms = tuple(_arm(s, sweep, confirming) for s in searching)
    return SweepResult(
        name=name,
        metric=sweep["metric"],
        mode=sweep["mode"],
        n_trials=sweep["n_trials"],
        arms=arms,
        sampler=sweep["sampler"],
        pruner=sweep["pruner"],
        command=sweep["command"],
        facts=sweep["facts"],
    )


def _arm(study: Study, sweep: Mapping[str, Any], studies: Mapping[tuple[str, int | None], Study]) -> ArmResult:
    about, attributes = study.user_attrs["arm"], study.user_attrs
    trials = tuple(_trial(t) for t in study.get_trials(deepcopy=False))
    found = best(study.get_trials(deepcopy=False), sweep["mode"])
    confirming = studies.get((about["name"], found.number)) if found else None
    widened = attributes.get("widened", [])
    known = space.from_json(about["space"]).get(about["rate"] or "")
    low, high = (known.low, known.high) if isinstance(known, FloatDistribution) else (None, None)
    if widened:
        low, high = widened[-1]["low"], widened[-1]["high"]
    confirmed = {}
    if confirming is not None:
        confirmed = {
            int(t.params["seed"]): float(t.values[0])
            for t in confirming.get_trials(deepcopy=False)
            if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.values
        }
    return ArmResult(
        name=about["name"],
        words=tuple(about["words"]),
        trials=trials,
        rate=about["rate"],
        low=low,
        high=high,
        widened=len(widened),
        added=sum(event["trials"] for event in widened),
        exchangeable=sweep["sampler"] == "random",
        at_init=attributes.get("at_init"),
        confirmed=confirmed,
        command=command(sweep["program"], words(study), found.user_attrs.get("threads")) if found else "",
    )


def words(study: Study) -> list[str]:
    """The overrides of a study's best trial."""
    found = best(study.get_trials(deepcopy=False), study.user_attrs["sweep"]["mode"])
    assert found is not None
    return space.command_line(study.user_attrs["arm"]["overrides"], found.params)


def _trial(t: FrozenTrial) -> TrialResult:
    state = State.diverged if t.user_attrs.get("diverged") else _STATES[t.state]
    return TrialResult(
        number=t.number,
        state=state,
        value=t.values[0] if t.values else None,
        params=dict(t.params),
        curve={step: value for step, value in sorted(t.intermediate_values.items()) if abs(value) != float("inf")},
        seconds=t.user_attrs.get("seconds"),
        folder=t.user_attrs.get("folder"),
        retry_of=t.system_attrs.get("failed_trial"),
        reason=t.user_attrs.get("reason", ""),
    )

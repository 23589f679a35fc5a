import optuna
import pytest
from optuna.trial import TrialState

from stepsize.sweep.options import PRUNERS
from stepsize.sweep.pruners import pruner


def pruned(name: str, trials: int = 24, steps: int = 27) -> list[bool]:
    """Which of a row of trials are stopped; the first four are good, and the rest far worse at each step."""
    study = optuna.create_study(study_name="study", pruner=pruner(name), sampler=optuna.samplers.RandomSampler(0))
    for number in range(trials):
        trial = study.ask()
        state = TrialState.COMPLETE
        for step in range(1, steps + 1):
            trial.report((1.0 if number < 4 else 100.0) + number, step)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state)
    return [t.state == TrialState.PRUNED for t in study.trials]


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "none"])
def test_a_pruner_stops_what_does_far_worse_and_spares_the_best(name: str) -> None:
    stopped = pruned(name)
    assert not stopped[0]
    assert sum(stopped[4:]) >= 5


def test_without_a_pruner_nothing_is_stopped() -> None:
    assert not any(pruned("none"))

import math

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from stepsize.sweep.seen import seen, stored

SPACE = {"x": FloatDistribution(0, 1)}


@pytest.fixture
def study():
    study = optuna.create_study()
    study.ask()
    for state, value in (
        (TrialState.COMPLETE, 2.0),
        (TrialState.PRUNED, 5.0),
        (TrialState.PRUNED, math.inf),
        (TrialState.PRUNED, -math.inf),
        (TrialState.PRUNED, None),
        (TrialState.COMPLETE, math.inf),
        (TrialState.FAIL, None),
        (TrialState.WAITING, None),
    ):
        curve = {3: 1.0} if state in (TrialState.COMPLETE, TrialState.PRUNED) else {}
        study.add_trial(
            create_trial(state=state, value=value, params={"x": 0.5}, distributions=SPACE, intermediate_values=curve)
        )
    return study


def view(study, is_pruned_complete, number=-1):
    trial = optuna.trial.FrozenTrial(number, TrialState.RUNNING, None, None, None, {}, {}, {}, {}, {}, trial_id=99)
    return seen(study, trial, is_pruned_complete)


def test_a_diverged_trial_has_come_nowhere(study):
    curves = [t.intermediate_values for t in view(study, False)._get_trials()]
    assert curves == [{}, {3: 1.0}, {3: 1.0}, {}, {}, {}, {}, {}, {}]


def test_states_and_values_stay_for_a_sampler_that_knows_pruned_trials(study):
    shown = [(t.state, t.value) for t in view(study, False)._get_trials()]
    assert shown == [(t.state, t.value) for t in study.trials]


def test_for_the_others_a_pruned_trial_is_complete_and_a_diverged_one_the_worst(study):
    complete = view(study, True)._get_trials(states=(TrialState.COMPLETE,))
    assert [t.value for t in complete] == [2.0, 5.0, 5.0, 5.0, 5.0, 5.0]


def test_where_more_is_better_the_worst_is_the_least():
    study = optuna.create_study(direction="maximize")
    for value in (2.0, 5.0, math.inf, -math.inf):
        study.add_trial(create_trial(state=TrialState.PRUNED, value=value, params={"x": 0.5}, distributions=SPACE))
    assert [t.value for t in view(study, True)._get_trials()] == [2.0, 5.0, 2.0, 2.0]


def test_trials_that_have_not_ended_well_stay_what_they_are(study):
    states = [t.state.name for t in view(study, True)._get_trials() if t.state != TrialState.COMPLETE]
    assert states == ["RUNNING", "FAIL", "WAITING"]


def test_the_trial_being_drawn_is_not_seen(study):
    assert [t.number for t in view(study, True, number=4)._get_trials()] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_what_is_stored_does_not_change(study):
    before = [(t.state, t.value, t.intermediate_values) for t in study.trials]
    view(study, True)
    assert [(t.state, t.value, t.intermediate_values) for t in study.trials] == before


def test_a_trial_that_another_process_told_is_seen_at_once(study):
    num = len(study._get_trials(use_cache=True))
    other = optuna.load_study(study_name=study.study_name, storage=study._storage)
    other.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions=SPACE))
    assert (len(study._get_trials(use_cache=True)), len(stored(study)), len(view(study, True)._get_trials())) == (
        num,
        num + 1,
        num + 1,
    )


def test_all_else_is_the_studys(study):
    assert (view(study, True).direction, view(study, True)._storage) == (study.direction, study._storage)

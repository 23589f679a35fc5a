import math
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from stepsize.sweep.reports import write
from stepsize.sweep.storage import connect, file_url


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(storage=connect(file_url(tmp_path)))
    made._storage.create_new_trial(made._study_id)
    return made


def test_reports_and_facts_are_kept_and_a_step_keeps_its_value(study: optuna.Study) -> None:
    write(study._storage, 1, {1: 0.5, 2: -math.inf}, {"seconds": 1.0, "folder": "0"})
    write(study._storage, 1, {2: 0.1, 3: math.nan}, {"seconds": 2.0})
    values = study.trials[0].intermediate_values
    assert list(values) == [1, 2, 3]
    assert (values[1], values[2], math.isnan(values[3])) == (0.5, -math.inf, True)
    assert study.trials[0].user_attrs == {"seconds": 2.0, "folder": "0"}


def test_nothing_is_written_of_a_trial_that_has_finished(study: optuna.Study) -> None:
    study._storage.set_trial_state_values(1, TrialState.COMPLETE, [0.5])
    with pytest.raises(UpdateFinishedTrialError):
        write(study._storage, 1, {1: 0.5}, {"seconds": 1.0})
    assert (study.trials[0].intermediate_values, study.trials[0].user_attrs) == ({}, {})

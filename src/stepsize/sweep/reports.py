"""What trials report at their validations, written all at once."""

from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from sqlalchemy import insert

from stepsize.sweep.lasting import LastingStorage


def lasting(storage: BaseStorage) -> LastingStorage:
    """The storage behind Optuna's cache."""
    found = getattr(storage, "_backend", storage)
    assert isinstance(found, LastingStorage)
    return found


def write(storage: BaseStorage, trial_id: int, values: Mapping[int, float]) -> None:
    """Add what a running trial reported, in one transaction; a step that has a value keeps it.

    Args:
        storage: of the study.
        trial_id: of the trial.
        values: step to value.

    Raises:
        UpdateFinishedTrialError: the trial runs no more.
    """
    backend, model = lasting(storage), models.TrialIntermediateValueModel

    def add() -> None:
        with _create_scoped_session(backend.scoped_session) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session)
            backend.check_trial_is_updatable(trial_id, trial.state)
            known = {row.step for row in model.where_trial_id(trial_id, session)}
            rows = []
            for step, value in values.items():
                stored, kind = model.intermediate_value_to_stored_repr(value)
                row = {
                    "trial_id": trial_id,
                    "step": step,
                    "intermediate_value": stored,
                    "intermediate_value_type": kind,
                }
                rows += [row] if step not in known else []
            if rows:
                session.execute(insert(model), rows)

    backend.answered(add)

"""What is known of a running trial, written all at once: on a disk, each transaction takes milliseconds."""

from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from sqlalchemy import insert

from stepsize.sweep.lasting import LastingStorage

Reports = Mapping[int, float]  # step to value


def lasting(storage: BaseStorage) -> LastingStorage:
    """The storage behind Optuna's cache."""
    found = getattr(storage, "_backend", storage)
    assert isinstance(found, LastingStorage)
    return found


def write(storage: BaseStorage, trial_id: int, values: Reports, facts: Mapping[str, Any]) -> None:
    """Keep what a running trial reported, and facts of it, in one transaction.

    Args:
        storage: of the study.
        trial_id: of the trial.
        values: that it reported; a step that has a value keeps it.
        facts: user attributes.

    Raises:
        UpdateFinishedTrialError: the trial runs no more.
    """
    backend, model = lasting(storage), models.TrialIntermediateValueModel

    def keep() -> None:
        with _create_scoped_session(backend.scoped_session) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session)
            backend.check_trial_is_updatable(trial_id, trial.state)
            for key, fact in facts.items():
                backend._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, fact)
            known = {row.step for row in model.where_trial_id(trial_id, session)} if values else set()
            stored = {s: model.intermediate_value_to_stored_repr(v) for s, v in values.items() if s not in known}
            names = ("trial_id", "step", "intermediate_value", "intermediate_value_type")
            if rows := [dict(zip(names, (trial_id, step, *pair), strict=True)) for step, pair in stored.items()]:
                session.execute(insert(model), rows)

    backend.answered(keep)

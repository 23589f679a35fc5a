"""Optuna's database storage, with calls that outlive a restart of the database and take effect exactly once."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from copy import copy
from datetime import datetime
from functools import partial, wraps
from itertools import count
from threading import Event
from typing import Any, TypeVar
from uuid import uuid4
from weakref import finalize

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, func
from sqlalchemy.orm import Session

from stepsize.errors import SweepStoppedError
from stepsize.sweep.connections import NoAnswerError, close, listen, one_line

_T = TypeVar("_T")

log = logging.getLogger(__name__)

CREATED_BY = "stepsize:created_by"  # system attributes of a trial: a mark of the call that created it
CHANGED_BY = "stepsize:changed_by"  # and of the call that changed its state last

_RETRIES = (
    "retry_history"  # numbers of the killed trials that a trial repeats, by Optuna's RetryHeartbeatStaleTrialCallback
)

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between two attempts


class StorageLostError(SweepStoppedError):
    """The storage has not answered for as long as a call is repeated."""


class LastingStorage(RDBStorage):
    """An RDBStorage whose every call is repeated while the database does not answer.

    An answer may be lost after the work was done, which a repetition must not do again: a trial carries a mark of the
    call that created it and of the one that changed its state last, written in the same transaction. Neither is a
    killed trial queued twice. Claiming a trial (WAITING to RUNNING) records its first heartbeat in the same
    transaction: it is never running without being watched.

    In SQLite every transaction takes the lock for writing as it begins. Python's sqlite3 module begins one only before
    the first write, when the row that a claim has read may have changed:
    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html

    Args:
        url: of the database, without password.
        retry_seconds: how long a call is repeated, before it raises StorageLostError.
        is_known: whether the tables are there and of this version; then nothing is created or compared, and opening
            is repeated like any other call.
        others: as in RDBStorage.
    """

    def __init__(self, url: str, retry_seconds: float, *, is_known: bool, **others: Any) -> None:
        self.retry_seconds = retry_seconds
        self._is_open = Event()
        self._is_silent = False
        self._last_answer = time.time()
        self._back_since = -float("inf")
        options = {**others, "skip_table_creation": is_known, "skip_compatibility_check": is_known}
        opening = partial(super().__init__, url, **options)
        self.answered(opening) if is_known else opening()
        self._is_open.set()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's; listened to from the moment when RDBStorage makes it, before its first connection."""
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        # While it opens a storage, Optuna reads in one connection what it is about to write in another.
        listen(engine, begins_with_lock=self._is_open.is_set)
        self._engine = engine
        self.close = finalize(self, close, engine, os.getpid())

    def answered(self, call: Callable[[], _T]) -> _T:
        """What the call returns, as soon as the database answers."""
        started, pause = time.monotonic(), _SHORTEST_PAUSE
        while True:
            try:
                result = call()
            except NoAnswerError as error:
                left = self.retry_seconds - (time.monotonic() - started)
                if left <= 0:
                    lost = f"the storage has not answered for {self.retry_seconds:.0f} s: {one_line(error)}"
                    raise StorageLostError(lost) from None
                if not self._is_silent:
                    log.warning("the storage does not answer; trying for another %.0f s", left)
                self._is_silent = True
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._note_answer()
                return result

    def _note_answer(self) -> None:
        now = time.time()
        if self._is_silent:
            log.warning("the storage answers again")
        if now - self._last_answer > (self.grace_period or 0) / 2:
            self._back_since = now
        self._is_silent, self._last_answer = False, now

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """As in RDBStorage, but none right after this process was cut off from the database, or slept.

        The others were cut off, or slept, as well: they are given the time to show that they live.
        """
        stale = self.answered(lambda: RDBStorage._get_stale_trial_ids(self, study_id))
        is_back = time.time() - self._back_since < 2 * (self.heartbeat_interval or 0)
        return [] if is_back else stale

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """As in RDBStorage."""
        attempts = count(1)

        def create() -> int:
            attempt = next(attempts)
            try:
                return RDBStorage.create_new_study(self, directions, study_name)
            except DuplicatedStudyError:
                if attempt == 1 or study_name is None:
                    raise
                return self.get_study_id_from_name(study_name)

        return self.answered(create)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        marked = copy(template_trial or create_trial(state=TrialState.RUNNING))
        marked.system_attrs = {**marked.system_attrs, CREATED_BY: uuid4().hex}
        return self.answered(lambda: RDBStorage._create_new_trial(self, study_id, marked))

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        # Runs while the study's row is locked, in the transaction that creates the trial.
        assert template_trial is not None
        attrs = template_trial.system_attrs
        done = _with_attr(session, study_id, CREATED_BY, attrs[CREATED_BY])
        if done is None and _RETRIES in attrs and template_trial.state == TrialState.WAITING:
            done = _with_attr(session, study_id, _RETRIES, attrs[_RETRIES])
        if done is not None:
            return done
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if trial.state == TrialState.RUNNING:
            _beat(session, trial.trial_id)
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As in RDBStorage: True where this call, however often it was repeated, has put the trial into the state."""
        mark = json.dumps(uuid4().hex)
        before: list[object] = []

        def change() -> bool:
            with _create_scoped_session(self.scoped_session) as session:
                trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                changed_by = models.TrialSystemAttributeModel.find_by_trial_and_key(trial, CHANGED_BY, session)
                before.append(changed_by and changed_by.value_json)
                if before[-1] == mark:
                    return True
                if state == TrialState.WAITING and before[-1] != before[0]:
                    return True  # it was put back, and claimed by another since
                self.check_trial_is_updatable(trial_id, trial.state)
                if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                    return False
                for objective, value in enumerate(values or ()):
                    self._set_trial_value_without_commit(session, trial, objective, value)
                self._set_trial_attr_without_commit(
                    session, models.TrialSystemAttributeModel, trial_id, CHANGED_BY, json.loads(mark)
                )
                if state == TrialState.RUNNING:
                    trial.datetime_start = datetime.now()
                    _beat(session, trial_id)
                if state.is_finished():
                    trial.datetime_complete = datetime.now()
                trial.state = state
            return True

        return self.answered(change)


def _repeated(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: LastingStorage, *args: Any, **keywords: Any) -> Any:
        return self.answered(lambda: method(self, *args, **keywords))

    return call


for _name in (  # those that open a transaction, and to which doing it twice is the same as doing it once
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_set_trial_param",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "_get_best_trial_id",
    "record_heartbeat",
):
    setattr(LastingStorage, _name, _repeated(getattr(RDBStorage, _name)))


def _with_attr(session: Session, study_id: int, key: str, value: object) -> models.TrialModel | None:
    attr = models.TrialSystemAttributeModel
    return (
        session.query(models.TrialModel)
        .join(attr, attr.trial_id == models.TrialModel.trial_id)
        .filter(models.TrialModel.study_id == study_id, attr.key == key, attr.value_json == json.dumps(value))
        .first()
    )


def _beat(session: Session, trial_id: Any) -> None:
    heartbeat = models.TrialHeartbeatModel.where_trial_id(trial_id, session)
    if heartbeat is None:
        session.add(models.TrialHeartbeatModel(trial_id=trial_id))
    else:
        heartbeat.heartbeat = func.now()

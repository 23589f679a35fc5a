"""A trial inside the process that runs it: rebuilt from storage, so that it can report under every launcher."""

import json
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import Trial

from stepsize.errors import TrainingStoppedError
from stepsize.sweep import reports, storage
from stepsize.sweep.pruners import pruner
from stepsize.trial import VARIABLE, reporting_to

KNOWN = "STEPSIZE_TRIAL_KNOWN"  # set beside VARIABLE where who starts the trial knows what it would ask the storage
_WRITE_EVERY = 1.0  # seconds between two writes of what was reported, where nothing prunes


def facts(params: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """What a trial would ask the storage, as the value of `KNOWN`.

    Args:
        params: of the trial.
        attributes: the user's, of the study.
    """
    return json.dumps({"params": dict(params), "wants_start": wants_start(attributes)})


def wants_start(attributes: Mapping[str, Any]) -> bool:
    """Whether a study, of these attributes, does not know yet how good the network is before training."""
    return "at_init" not in attributes and bool(attributes.get("wants_start"))


@dataclass(frozen=True)
class Ended:
    """How a trial ended: "complete", "pruned" or "diverged", with the value that the task returned.

    Args:
        how, value: as above.
        reason: one line, where it is not complete.
        seconds: wall time of the task.
        reports: step to value, of those that the storage does not have yet.
    """

    how: str
    value: float
    reason: str = ""
    seconds: float = 0.0
    reports: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialTask:
    """A Hydra task function as a trial: the one it wraps, reporting to the study that `STEPSIZE_TRIAL` names.

    Args:
        task: takes the composed config and returns the objective.
        url: of the storage, without a password.
        pruner: its name.
    """

    task: Callable[[Any], Any]
    url: str
    pruner: str

    def __call__(self, cfg: Any) -> Ended:
        """Run the task.

        Raises:
            ValueError: the task returned no number.
        """
        study, _, number = os.environ[VARIABLE].rpartition(":")
        known = json.loads(os.environ.get(KNOWN, "null"))
        reporter = Reporter(self.url, study, int(number), self.pruner, known)
        started = time.monotonic()
        try:
            with reporting_to(reporter):
                ended = self._judged(cfg, reporter)
            return replace(ended, seconds=time.monotonic() - started, reports=reporter.rest())
        finally:
            reporter.close()

    def _judged(self, cfg: Any, reporter: "Reporter") -> Ended:
        try:
            value = self.task(cfg)
        except TrainingStoppedError as error:
            what, _, _ = str(error).partition(": ")  # and not what to do: the sweep does it, and tries others
            return Ended("diverged", math.inf, what)
        except optuna.TrialPruned as error:
            return Ended("pruned", math.nan, str(error) or "pruned")
        if reporter.pruned_at is not None:
            return Ended("pruned", math.nan, f"pruned at step {reporter.pruned_at}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"a task that is swept returns its objective, a number; this one returned {value!r}")
        if not math.isfinite(value):
            return Ended("diverged", float(value), f"the objective is {value}")
        return Ended("complete", float(value))


@dataclass(frozen=True)
class Traced:
    """A task whose errors carry their traceback as a note: from another process they would arrive without.

    Args:
        task: takes the composed config.
    """

    task: Callable[[Any], Any]

    def __call__(self, cfg: Any) -> Any:
        """Run the task."""
        try:
            return self.task(cfg)
        except Exception as error:  # any, and it goes on its way
            error.add_note("".join(traceback.format_exception(error)))
            raise


@dataclass
class Reporter:
    """The trial as its run sees it; connects when it is first needed.

    Where nothing prunes, a thread of its own writes each second what was reported, and training does not wait for it; a
    trial that ends before has not connected, and leaves the writing to those who run the sweep.

    Args:
        url, study, number, pruner: of the trial.
        known: what those who started it know of it, as `facts` says; None where the storage is to be asked.
    """

    url: str
    study: str
    number: int
    pruner: str
    known: Mapping[str, Any] | None = None
    pruned_at: int | None = None
    _trial: Trial | None = None
    _waiting: dict[int, float] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _writer: threading.Thread | None = None
    _error: Exception | None = None

    @property
    def trial(self) -> Trial:
        """The trial itself, not a frozen copy, whose reports would be ignored."""
        with self._lock:
            if self._trial is None:
                opened = optuna.load_study(
                    study_name=self.study, storage=storage.reconnect(self.url), pruner=pruner(self.pruner)
                )
                trial_id = opened._storage.get_trial_id_from_study_id_trial_number(opened._study_id, self.number)
                self._trial = Trial(opened, trial_id)
            return self._trial

    @property
    def params(self) -> Mapping[str, Any]:
        """What was chosen for this trial."""
        return self.known["params"] if self.known else self.trial.params

    @property
    def wants_start(self) -> bool:
        """Whether the study does not know yet how good the network is before training."""
        return self.known["wants_start"] if self.known else wants_start(self.trial.study.user_attrs)

    def report_start(self, value: float) -> None:
        """Tell the study how good the network is before training."""
        self.trial.study.set_user_attr("at_init", value)

    def report(self, step: int, value: float) -> bool:
        """Tell the study a value; returns whether to stop."""
        if self.pruner == "none":
            with self._lock:
                self._waiting.setdefault(step, float(value))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_now_and_then, name="reports", daemon=True)
                self._writer.start()
            return False
        self.trial.report(value, step)
        if self.pruned_at is None and self.trial.should_prune():
            self.pruned_at = step
        return self.pruned_at is not None

    def rest(self) -> Mapping[int, float]:
        """What was reported and is not written, for others to write; nothing where this process has connected."""
        with self._lock:
            if self._trial is not None or self._error is not None:
                return {}
            values, self._waiting = self._waiting, {}
            return values

    def close(self) -> None:
        """Wait until everything has been written, and disconnect; raises what the writer met."""
        self._closed.set()
        if self._writer is not None:
            self._writer.join()
        if self._error is not None:
            raise self._error
        self._write()
        if self._trial is not None:
            reports.lasting(self._trial.study._storage).close()

    def _write(self) -> None:
        with self._lock:
            values, self._waiting = self._waiting, {}
        if values:
            reports.write(self.trial.study._storage, self.trial._trial_id, values, {})

    def _write_now_and_then(self) -> None:
        try:
            while not self._closed.wait(_WRITE_EVERY):
                self._write()
        except Exception as error:  # of the storage; the run itself goes on to its end
            self._error = error

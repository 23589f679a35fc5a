"""A trial inside the process that runs it: rebuilt from storage, so that it can report under every launcher."""

import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import Trial

from stepsize.errors import TrainingStoppedError
from stepsize.sweep import storage
from stepsize.sweep.pruners import pruner
from stepsize.trial import VARIABLE, reporting_to


@dataclass(frozen=True)
class Ended:
    """How a trial ended: "complete", "pruned" or "diverged", with the value that the task returned.

    Args:
        how, value: as above.
        reason: one line, where it is not complete.
        seconds: wall time of the task.
    """

    how: str
    value: float
    reason: str = ""
    seconds: float = 0.0


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
        started = time.monotonic()
        return replace(self._ended(cfg), seconds=time.monotonic() - started)

    def _ended(self, cfg: Any) -> Ended:
        study, _, number = os.environ[VARIABLE].rpartition(":")
        reporter = Reporter(self.url, study, int(number), self.pruner)
        with reporting_to(reporter):
            try:
                value = self.task(cfg)
            except TrainingStoppedError as error:
                what, _, _ = str(error).partition(": ")  # and not what to do: the sweep does it, and tries others
                return Ended("diverged", math.inf, what)
            except optuna.TrialPruned as error:
                return Ended("pruned", math.nan, str(error) or "pruned")
            finally:
                reporter.close()
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

    Where nothing prunes, what is reported is written by a thread of its own, and training does not wait for it.
    """

    url: str
    study: str
    number: int
    pruner: str
    pruned_at: int | None = None
    _trial: Trial | None = None
    _waiting: "queue.Queue[tuple[int, float] | None]" = field(default_factory=queue.Queue)
    _writer: threading.Thread | None = None
    _error: Exception | None = None

    @property
    def trial(self) -> Trial:
        """The trial itself, not a frozen copy, whose reports would be ignored."""
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
        return self.trial.params

    @property
    def wants_start(self) -> bool:
        """Whether the study does not know yet how good the network is before training."""
        attributes = self.trial.study.user_attrs
        return "at_init" not in attributes and bool(attributes.get("wants_start"))

    def report_start(self, value: float) -> None:
        """Tell the study how good the network is before training."""
        self.trial.study.set_user_attr("at_init", value)

    def report(self, step: int, value: float) -> bool:
        """Tell the study a value; returns whether to stop."""
        if self.pruner == "none":
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="reports")
                self._writer.start()
            self._waiting.put((step, value))
            return False
        self.trial.report(value, step)
        if self.pruned_at is None and self.trial.should_prune():
            self.pruned_at = step
        return self.pruned_at is not None

    def close(self) -> None:
        """Wait until everything has been written; raises what the writer met."""
        if self._writer is not None:
            self._waiting.put(None)
            self._writer.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                step, value = item
                self.trial.report(value, step)
        except Exception as error:  # of the storage; the run itself goes on to its end
            self._error = error

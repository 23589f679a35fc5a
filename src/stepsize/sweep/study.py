"""A study as a queue of trials: claimed by one worker each, counted exactly, never left running."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from stepsize.errors import ConfigError
from stepsize.sweep import samplers
from stepsize.sweep.fingerprint import changes, fingerprint
from stepsize.sweep.liveness import is_gone, this_process
from stepsize.sweep.plan import COUNTED, Claimed, Plan, best
from stepsize.sweep.pruners import pruner
from stepsize.sweep.reports import Reports, lasting, write
from stepsize.sweep.retries import is_repeat, repeat, replacement
from stepsize.sweep.space import Space
from stepsize.sweep.widening import widening

_AHEAD = 16  # trials that are made to wait at a time: each look at a study reads all that have not finished


class Study:
    """Opens a study, or creates it.

    Args:
        storage: where all workers meet.
        plan: what is to be tried.

    Raises:
        ConfigError: the study was made by another space or config; nothing has been changed then.
    """

    def __init__(self, storage: BaseStorage, plan: Plan) -> None:
        self.plan = plan
        self.on_widened: Callable[[Mapping[str, Any]], None] = lambda event: None  # called where the range is widened
        self.study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            load_if_exists=True,
            direction="minimize" if plan.mode == "min" else "maximize",
            pruner=pruner(plan.pruner),
        )
        self._check()
        self._storage = self.study._storage
        self._id = self.study._study_id
        known = self.study.user_attrs
        fewer = plan.about.get("sweep", {}).get("n_trials", 0) < known.get("sweep", {}).get("n_trials", 0)
        for key, value in plan.about.items():
            if known.get(key) != value and not (key == "sweep" and fewer):  # what it was extended to stays true
                self.study.set_user_attr(key, value)
        self.attributes: Mapping[str, Any] = self.study.user_attrs  # as they were when a trial was claimed last
        self._widened: list[Mapping[str, Any]] = self.attributes.get("widened", [])

    def _check(self) -> None:
        before, now = self.study.user_attrs.get("fingerprint"), fingerprint(self.plan)
        if before is None:
            self.study.set_user_attr("fingerprint", now)
        elif changed := changes(before, now):
            raise ConfigError(
                f"sweep.study={self.plan.name}: made by another command ({'; '.join(changed[:5])}); take another name, "
                "or the same words"
            )

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        return self.study.get_trials(deepcopy=False)

    @property
    def target(self) -> int:
        """Finished trials wanted, those added by widening included."""
        return self.plan.n_trials + sum(int(w["trials"]) for w in self._widened)

    def best(self) -> FrozenTrial | None:
        """The best complete trial, the earliest of equals."""
        return best(self.trials(), self.plan.mode)

    def finished(self) -> int:
        """How many trials count: complete, pruned or diverged."""
        return sum(t.state in COUNTED for t in self.trials())

    def is_complete(self) -> bool:
        """Whether nothing is left to try; where the best lies at an edge, the range is widened first."""
        trials = self.trials()
        self._widened = self.study.user_attrs.get("widened", [])
        if sum(t.state in COUNTED for t in trials) < self.target:
            return False
        return not self._widen(trials)

    def claim(self) -> Claimed | None:
        """The next trial, as this process's own; None where the rest are being run, or all have finished.

        A trial waits until one process has changed its state to running; the storage lets only one do that. Two that
        find too few waiting at once may both add some: those beyond the target are left to wait.
        """
        self.attributes = self.study.user_attrs
        self._widened = self.attributes.get("widened", [])
        left = True
        while left:
            claimed, left = self._claim()
            if claimed is not None:
                return self._kept_unless_it_fails(claimed)
        return None

    def _claim(self) -> tuple[FrozenTrial | None, bool]:
        """A trial that waited and is running now; where others were faster, whether some are left to be made."""
        alive = [t for t in self.trials() if t.state != TrialState.FAIL]
        if not any(t.state == TrialState.WAITING for t in alive):
            for _ in range(min(self.target - len(alive), _AHEAD)):
                self._storage.create_new_trial(self._id, template_trial=optuna.create_trial(state=TrialState.WAITING))
                alive = [t for t in self.trials() if t.state != TrialState.FAIL]
                if len(alive) >= self.target:  # another has made some, too
                    break
        waiting = [t for t in alive if t.state == TrialState.WAITING]
        waiting.sort(key=lambda t: not is_repeat(t))  # what was killed comes before surplus ones
        for t in waiting[: max(0, self.target - len(alive) + len(waiting))]:
            with suppress(UpdateFinishedTrialError):  # another was faster, and has even finished it
                if self._storage.set_trial_state_values(t._trial_id, TrialState.RUNNING):
                    return t, False
        return None, len(alive) < self.target

    def _kept_unless_it_fails(self, claimed: FrozenTrial) -> Claimed | None:
        try:
            trials = self.trials()
            if sum(t.state not in (TrialState.FAIL, TrialState.WAITING) for t in trials) <= self.target:
                return self._sampled(claimed, trials)
            # Two that saw different ones wait have claimed one each: the later of them is too many.
            self._storage.set_trial_state_values(claimed._trial_id, TrialState.WAITING)
            return None
        except BaseException:  # Ctrl-C too: whatever happens, the trial is not left running
            self._storage.set_trial_state_values(claimed._trial_id, TrialState.WAITING)
            raise

    def _sampled(self, waiting: FrozenTrial, trials: Sequence[FrozenTrial]) -> Claimed:
        trial_id, number = waiting._trial_id, waiting.number
        folder = str(Path(self.plan.folder) / str(number))
        write(self._storage, trial_id, {}, {"runner": this_process(), "folder": folder})
        fixed = self._fixed(waiting, trials)
        if fixed:
            self._storage.set_trial_system_attr(trial_id, "fixed_params", fixed)
        if self.plan.sampler != "listed":
            # The grid's points are places in the range that the study began with.
            searched = self.plan.space if self.plan.sampler == "grid" else self.space()
            self.study.sampler = samplers.make(self.plan.sampler, self.plan.seed, searched)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            trial = Trial(self.study, trial_id)
            for name, distribution in self.space().items():
                trial._suggest(name, distribution)
        return Claimed(trial, number, trial_id, dict(trial.params), folder)

    def _fixed(self, waiting: FrozenTrial, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """The parameters that are not the sampler's to choose."""
        index = sum(t.number < waiting.number and not is_repeat(t) for t in trials)
        if self.plan.listed and not is_repeat(waiting):
            return {name: values[index % len(values)] for name, values in self.plan.listed.items()}
        for widened in self._widened:
            if widened["values"] and 0 <= index - widened["at"] < widened["trials"]:
                return {str(self.plan.rate): widened["values"][index - widened["at"]]}
        return {}

    def space(self) -> Space:
        """The space as it is searched now."""
        if not self._widened:
            return self.plan.space
        last = self._widened[-1]
        return {**self.plan.space, str(self.plan.rate): FloatDistribution(last["low"], last["high"], log=True)}

    def _widen(self, trials: Sequence[FrozenTrial]) -> bool:
        if self.plan.rate is None:
            return False
        event = widening(trials, self.plan.rate, self.space()[self.plan.rate], self.plan, self._widened)
        if event is not None:
            self._widened = [*self._widened, event]
            self.study.set_user_attr("widened", self._widened)
            self.on_widened(event)
        return event is not None

    def tell(
        self,
        claimed: Claimed,
        value: float,
        seconds: float,
        reports: Reports | None = None,
        pruned: bool = False,
    ) -> None:
        """A trial has ended with a value; where it was pruned, the value it has is the last that was reported."""
        self.note(claimed, {"seconds": seconds}, reports)
        if pruned:
            self.study.tell(claimed.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self.study.tell(claimed.number, value, skip_if_finished=True)

    def tell_diverged(self, claimed: Claimed, reason: str, seconds: float, reports: Reports | None = None) -> None:
        """A number was no longer finite: pruned, with the worst value there is.

        Told as failed it would not be counted, and the sampler would go back for more of the same.
        """
        worst = float("inf") if self.plan.mode == "min" else float("-inf")
        steps = {*self._storage.get_trial(claimed.id).intermediate_values, *(reports or {})}
        reports = {**(reports or {}), max(steps, default=0) + 1: worst}
        self.note(claimed, {"seconds": seconds, "reason": reason, "diverged": True}, reports)
        self.study.tell(claimed.number, state=TrialState.PRUNED, skip_if_finished=True)

    def tell_failed(self, claimed: Claimed, reason: str, seconds: float, retry: bool = False) -> bool:
        """A trial raised, or was killed; returns whether it is tried again, which a killed one is, once."""
        self.note(claimed, {"seconds": seconds})
        return self._fail(claimed.id, reason, retry)

    def put_back(self, claimed: Claimed) -> None:
        """Let a trial that was interrupted wait again, with its number and its parameters.

        Where a pruner would go by what it has reported, a new trial takes its place: reports cannot be taken back.
        """
        trial = self._storage.get_trial(claimed.id)
        with suppress(UpdateFinishedTrialError):
            if self.plan.pruner == "none" or not trial.intermediate_values:
                self._storage.set_trial_state_values(claimed.id, TrialState.WAITING)
                return
            self._storage.set_trial_user_attr(claimed.id, "reason", "interrupted")
            self._storage.set_trial_state_values(claimed.id, TrialState.FAIL)
            self.study.add_trial(replacement(trial))

    def beat(self, trial_id: int) -> None:
        """Say that a trial is alive."""
        lasting(self._storage).record_heartbeat(trial_id)

    def bury(self) -> int:
        """Fail the running trials whose worker is gone, and have each tried once more; returns how many there were."""
        running = [t for t in self.trials() if t.state == TrialState.RUNNING]
        if not running:
            return 0
        stale = set(lasting(self._storage)._get_stale_trial_ids(self._id))
        gone = [t._trial_id for t in running if t._trial_id in stale or is_gone(t.user_attrs.get("runner"))]
        return sum(self._fail(trial_id, "its worker was killed", retry=True, count=True) for trial_id in gone)

    def _fail(self, trial_id: int, reason: str, retry: bool, count: bool = False) -> bool:
        try:
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
            if not self._storage.set_trial_state_values(trial_id, TrialState.FAIL):
                return False
        except UpdateFinishedTrialError:  # another worker was faster
            return False
        failed = self._storage.get_trial(trial_id)
        again = retry and not is_repeat(failed)
        if again:
            repeat(self.study, failed)
        return count or again

    def note(self, claimed: Claimed, facts: Mapping[str, Any], reports: Reports | None = None) -> None:
        """Keep facts of a trial with it, and what it reported and has not written itself: step to value."""
        with suppress(UpdateFinishedTrialError):  # taken for dead meanwhile, and given up
            write(self._storage, claimed.id, reports or {}, facts)

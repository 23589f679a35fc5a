"""A trial that is tried again: what of it is kept, and what is not."""

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

_OF_ITS_END = ("runner", "reason", "seconds")  # facts that the next attempt has anew


def is_repeat(trial: FrozenTrial) -> bool:
    """Whether a trial repeats one that was killed."""
    return "failed_trial" in trial.system_attrs


def repeat(study: optuna.Study, killed: FrozenTrial) -> None:
    """Let a trial that was killed wait once more, with its parameters."""
    killed.user_attrs = {k: v for k, v in killed.user_attrs.items() if k not in _OF_ITS_END}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=1)(study, killed)


def replacement(interrupted: FrozenTrial) -> FrozenTrial:
    """A trial that waits in the place of another, with its parameters and without its reports."""
    first = interrupted.system_attrs.get("failed_trial", interrupted.number)
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=interrupted.params,
        distributions=interrupted.distributions,
        system_attrs={"failed_trial": first},
    )

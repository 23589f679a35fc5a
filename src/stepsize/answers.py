"""What a user sees when something is wrong: one line that says what, and what to do instead."""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from stepsize.data.errors import DataError
from stepsize.errors import CheckpointError, ConfigError, SweepStoppedError, TrainingStoppedError, suggestion
from stepsize.trial import follows

_OURS = "STEPSIZE_ONE_LINE_ERRORS"


def one_line_errors(main: Callable[[], Any]) -> Callable[[], Any]:
    """Let a command end in one line on stderr and exit code 1; with HYDRA_FULL_ERROR=1, in a traceback.

    Hydra prints what went wrong in its own words unless it is asked for the full error, so it is always asked, and the
    answer is made here. A second variable tells the processes this one starts that it was not the user who asked.
    """

    @functools.wraps(main)
    def command() -> Any:
        if os.environ.get("HYDRA_FULL_ERROR") != "1":
            os.environ |= {"HYDRA_FULL_ERROR": "1", _OURS: "1"}
        try:
            return main()
        except BaseException as error:  # every error leaves by this door: known ones in a line, the others whole
            if _is_interrupt(error):  # before anything runs that would end more cleanly
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None
            if not isinstance(error, Exception):
                raise
            leave(error)

    return command


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what happened, or what an error came of that was raised as it was handled."""
    while error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
        error = error.__context__
    return isinstance(error, KeyboardInterrupt)


def leave(error: Exception) -> None:
    """Say what `error` means and exit with code 1.

    Where Lightning started this process to take part in a sweep's trial, training that cannot go on ends it with code
    0: the first process says the same to the sweep, and Lightning would kill it within seconds of another code.

    Raises:
        SystemExit: always.
    """
    message = answer(error)
    if message is None or _OURS not in os.environ:
        traceback.print_exception(error)
    else:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(0 if follows() and isinstance(error, TrainingStoppedError) else 1)


def answer(error: BaseException) -> str | None:
    """One line for an error of the user's; None for one of ours, which deserves its traceback."""
    match error:
        case ConfigError() | DataError() | TrainingStoppedError() | SweepStoppedError() | CheckpointError():
            return _one_line(str(error))
        case MissingConfigException() if error.missing_cfg_file and error.options:
            group, _, word = str(error.missing_cfg_file).rpartition("/")
            return f"{group}={word}: there is no such {group.split('/')[-1]}; {suggestion(word, error.options)}"
        case OverrideParseException():
            return f"{error.override}: cannot be read; {_one_line(error.message)}"
        case ValueError() if str(error).startswith("Config group override must be"):  # Hydra's, of optimizer=null
            return "a group takes one of its words, not null, a number or true; python train.py --help lists them"
        case ConfigCompositionException() if "${experiment}/${optimizer}" in str(error):  # of ~optimizer
            return "optimizer: a run needs one; set optimizer=WORD, python train.py --help lists the words"
        case HydraException() | OmegaConfBaseException():
            return _composition(error)
    # By name, as Lightning is not to be imported for a misspelt word: its word for options that exclude each other.
    return _one_line(str(error)) if type(error).__name__ == "MisconfigurationException" else None


def _composition(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    match cause:
        case InterpolationResolutionError() if str(cause.msg).startswith("ConfigError raised"):  # by a resolver of ours
            return _one_line(str(cause.msg).split(": ", 1)[1].split("\n")[0])
        case ConfigAttributeError() | ConfigKeyError() if cause.parent_node is not None:
            key = str(cause.key)
            deeper = [f"{group}.{key}" for group, node in _groups(cause.parent_node) if key in node]
            if deeper:
                return f"{cause.full_key}: there is no such key; did you mean {' or '.join(deeper)}?"
            known = [str(k) for k in cause.parent_node if not str(k).startswith("_")]
            return f"{cause.full_key}: there is no such key; {suggestion(key, known)}"
        case ValidationError() if cause.full_key and "ListConfig" in str(cause.msg):
            return f"{cause.full_key}: takes a list, such as {cause.full_key}=[1,2]"
        case MissingMandatoryValue() if cause.full_key:
            return f"{cause.full_key}: must be given"
        case ValidationError() if cause.full_key:
            return f"{cause.full_key}: {_one_line(str(cause.msg or cause)).split('; full_key:')[0]}"
    return _one_line(f"{error} {cause if cause is not error else ''}")


def _groups(parent: Any) -> list[tuple[str, DictConfig]]:
    nodes = ((str(k), parent._get_node(k)) for k in parent) if isinstance(parent, DictConfig) else ()
    return [(name, node) for name, node in nodes if isinstance(node, DictConfig) and not node._is_none()]


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", "; ", text.strip()).rstrip("; ")

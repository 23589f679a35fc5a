"""The errors whose message is the whole answer to the user."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

_MOST_LISTED = 30  # a longer list hides the answer that comes before it


class ConfigError(ValueError):
    """A choice of the user's that cannot work."""


class TrainingStoppedError(RuntimeError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, such as on a full disk; the one before it is whole."""


class RunInterrupted(SystemExit):  # like SystemExit, it passes by whoever handles errors
    """A signal has ended a run in order: after Ctrl-C with code 130, as a shell has it, after the others with 143.

    Args:
        number: of the signal.
        step: optimizer steps taken.
        saved: the checkpoint to go on from; None where there is none.
    """

    def __init__(self, number: int, step: int, saved: Path | None) -> None:
        super().__init__(self.exit_code(number))
        self.signal = Signals(number).name
        self.step = step
        self.saved = saved

    @staticmethod
    def exit_code(number: int) -> int:
        """Return 128 + the signal's number, where SIGUSR1 counts as SIGTERM: a scheduler sends both."""
        return 128 + (SIGINT if number == SIGINT else SIGTERM)


class SweepStoppedError(RuntimeError):
    """A sweep that cannot go on, such as one whose trials fail one after the other; what has finished is kept."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """What there is instead of `word`: "did you mean adamw? There are: adam, adamw, ..."."""
    choices = sorted(known)
    near = get_close_matches(word, choices, n=1, cutoff=0.6)
    if near and len(choices) > _MOST_LISTED:
        return f"did you mean {near[0]}?"
    listed = f"There are: {', '.join(choices)}" if choices else "There is nothing to choose from"
    return f"did you mean {near[0]}? {listed}" if near else listed

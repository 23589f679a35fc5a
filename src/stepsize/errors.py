"""The errors whose message is the whole answer to the user."""

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_LISTED = 30  # a longer list hides the answer that comes before it


class ConfigError(ValueError):
    """A choice of the user's that cannot work."""


class TrainingStoppedError(RuntimeError):
    """Training that cannot go on, such as a loss that is no longer finite."""


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

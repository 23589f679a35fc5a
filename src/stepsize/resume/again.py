"""The words that a run was started with hold again where it is continued: `python train.py resume=PATH` is enough."""

import functools
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepsize.errors import ConfigError

# They are of one start and not of the run.
_OF_A_START = ("resume", "mode", "run_dir", "hydra")
_WORD = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=|$)")  # and no flag of Hydra's, such as a folder to compose from


def with_words_of_the_run(main: Callable[[], Any]) -> Callable[[], Any]:
    """Let a command that continues, or tests, a run begin with the words that run was started with."""

    @functools.wraps(main)
    def command() -> Any:
        sys.argv[1:] = words(sys.argv[1:])
        return main()

    return command


def words(typed: Sequence[str]) -> list[str]:
    """The words to compose, those of the run that `resume=PATH` names before those that were typed.

    What is typed wins: a key, or a group with all its keys. Nothing is added to several runs (-m), nor to
    `resume=auto` and `resume=latest`, which repeat the command itself.

    Raises:
        ConfigError: the run was started with a word that says what is to be called: a file may be a stranger's.
    """
    typed = list(typed)
    path = next((word.partition("=")[2].strip("'\"") for word in reversed(typed) if _key(word) == "resume"), "")
    if path in ("", "auto", "latest", "null") or {"-m", "--multirun"} & set(typed):
        return typed
    known = [_key(word) for word in typed]
    before = [word for word in _started_with(Path(path)) if not _is_said(_key(word), known)]
    calls = [word for word in before if "_target_" in word or "${" in word or not _WORD.match(word)]
    if calls:
        raise ConfigError(
            f"resume={path}: that run was started with {' '.join(calls)}, which has code that a file names run; type "
            "it again if you trust where the file comes from"
        )
    return before + typed


def _started_with(path: Path) -> list[str]:
    """The words that a run was started with, by a checkpoint or a run's folder; none where there is no such thing."""
    from stepsize.resume.checkpoint_files import read  # loads torch

    names = ("last.ckpt", "previous.ckpt")
    for checkpoint in [path / "checkpoints" / name for name in names] if path.is_dir() else [path]:
        with suppress(ConfigError):  # the run itself says what is wrong with it
            return [str(word) for word in read(checkpoint)["stepsize"].get("words", ())]
    return []


def _key(word: str) -> str:
    return re.split("[=@]", word.lstrip("+~"), maxsplit=1)[0].replace("/", ".")


def _is_said(key: str, known: Sequence[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in (*known, *_OF_A_START))

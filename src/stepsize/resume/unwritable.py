"""A disk that is full, read-only or gone: one line, whichever file of the run could not be written first."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepsize.errors import CheckpointError

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@contextmanager
def unwritable_explained(folder: Path) -> Iterator[None]:
    """Turn what came of a file in `folder` that could not be written into one error.

    Args:
        folder: of the run.

    Raises:
        CheckpointError: names the file or the folder, the reason, and the last good checkpoint.
    """
    hook = threading.excepthook

    def quiet(error: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread hands its error to whoever logs next, and prints a traceback besides.
        if type(error.thread).__name__ != "_AsyncWriterThread" or not isinstance(error.exc_value, OSError):
            hook(error)

    threading.excepthook = quiet
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        for known in chain:
            if isinstance(known, CheckpointError):
                raise known from None
        for cause in chain:
            if isinstance(cause, OSError) and (cause.errno in _REFUSED or _is_in(cause.filename, folder)):
                path, last = os.fsdecode(cause.filename or folder), folder / "checkpoints" / "last.ckpt"
                kept = last if last.exists() else "none"
                raise CheckpointError(
                    f"{path} cannot be written: {cause.strerror}; last good checkpoint: {kept}"
                ) from error
        raise
    finally:
        threading.excepthook = hook


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came of, and so on; TensorBoard raises one again and again, which makes a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_in(path: object, folder: Path) -> bool:
    if not isinstance(path, (str, bytes, Path)):
        return False
    return Path(os.fsdecode(path)).absolute().is_relative_to(folder.absolute())

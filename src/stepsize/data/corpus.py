"""Text as one file."""

import hashlib
import platform
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from stepsize.data.errors import DataError
from stepsize.data.files import whole_file

# A file with a NUL byte among its first 8000 is no text: git's rule, buffer_is_binary in xdiff-interface.c.
HEAD_BYTES = 8000

# What lies in the standard library's folder and is not the library: other packages, tests, what differs by machine.
NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
OF_THE_MACHINE = ("config-", "_sysconfigdata")


def corpus_file(path: str | None, cache: Path) -> Path:
    """Return one file with all the text of `path`.

    Args:
        path: a file, returned as it is; a folder, whose text files are joined in the order of their names (hidden ones
            and those that are no text are left out); None: the sources of Python's standard library without its tests.
        cache: the folder where the joined text is kept, under a name that changes when a name, a size or a date of the
            files does.

    Raises:
        DataError: there is no such file or folder, or no text in it.
    """
    if path is None:
        folder = Path(sysconfig.get_path("stdlib"))
        files = [file for file in sorted(folder.rglob("*.py")) if _is_library(file.relative_to(folder).parts)]
        return _joined(f"python-{platform.python_version()}", folder, files, cache)
    source = Path(path)
    if source.is_file():
        if not source.stat().st_size:
            raise DataError(f"{source} is empty: give a file with text")
        return source
    if not source.is_dir():
        raise DataError(f"{source} does not exist: give a text file or a folder of text files")
    files = [file for file in sorted(source.rglob("*")) if _is_visible_file(file, source)]
    return _joined(source.resolve().name, source, files, cache)


def _is_library(parts: Sequence[str]) -> bool:
    return NOT_THE_LIBRARY.isdisjoint(parts) and not parts[0].startswith(OF_THE_MACHINE)


def _is_visible_file(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _joined(name: str, folder: Path, files: Sequence[Path], cache: Path) -> Path:
    fingerprint = hashlib.blake2b(digest_size=8)
    for file in files:
        stat = file.stat()
        fingerprint.update(f"{file.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    joined = cache / f"{name}-{fingerprint.hexdigest()}.bin"
    if not joined.is_file():
        with whole_file(joined) as out:
            for file in files:
                text = file.read_bytes()
                if b"\0" not in text[:HEAD_BYTES]:
                    out.write(text)
            if not out.tell():
                raise DataError(f"{folder} has no text in its {len(files)} files: give a folder of text files")
    return joined

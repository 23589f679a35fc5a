"""Downloads that are whole or absent."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from stepsize.data.errors import DataError
from stepsize.data.files import whole_file

BLOCK_BYTES = 2**18


def download(url: str, path: Path, is_right: Callable[[Path], bool], timeout: float = 30.0) -> None:
    """Download one file; `path` exists afterwards only if all of it came and it is what was expected.

    Args:
        url: where from.
        path: where to; its folder is made.
        is_right: whether a file has the right content.
        timeout: seconds that the server may be silent.

    Raises:
        DataError: the server cannot be reached, the answer breaks off, or the content is not the right one.
    """
    try:
        with (
            urllib.request.urlopen(url, timeout=timeout) as response,
            whole_file(path) as file,
            # None: no bar where nobody watches
            tqdm(total=response.length, desc=path.name, unit="B", unit_scale=True, disable=None) as bar,
        ):
            expected, received = response.length, 0
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                received += len(block)
                bar.update(len(block))
            if expected is not None and received != expected:
                raise DataError(f"{url} broke off after {received} of {expected} bytes: run again")
            file.flush()
            if not is_right(Path(file.name)):
                raise DataError(f"{url} is not the expected file: its checksum is wrong")
    except urllib.error.HTTPError as error:
        error.close()  # it is an open answer too
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(f"{url} cannot be downloaded: {reason}") from error

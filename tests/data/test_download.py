from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from stepsize.data.download import download
from stepsize.data.errors import DataError
from stepsize.data.files import whole_file

CONTENT = bytes(range(256)) * 4000


class BreaksOff(SimpleHTTPRequestHandler):
    """Announces more than it sends."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000])


def is_content(path: Path) -> bool:
    return path.read_bytes() == CONTENT


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "root" / "file.bin"


def test_a_download_is_the_file(serve, tmp_path: Path, target: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    download(f"{serve(tmp_path)}/file.bin", target, is_content)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_an_answer_that_breaks_off_leaves_nothing(serve, tmp_path: Path, target: Path) -> None:
    url = f"{serve(tmp_path, BreaksOff)}/file.bin"
    with pytest.raises(DataError, match=f"{url} broke off after 1000 of {len(CONTENT)} bytes"):
        download(url, target, lambda path: True)
    assert list(target.parent.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(serve, tmp_path: Path, target: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"file\.bin is not the expected file: its checksum is wrong"):
        download(f"{serve(tmp_path)}/file.bin", target, is_content)
    assert list(target.parent.iterdir()) == []


def test_a_failed_download_keeps_the_old_file(serve, tmp_path: Path, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(DataError):
        download(f"{serve(tmp_path, BreaksOff)}/file.bin", target, is_content)
    assert target.read_bytes() == b"old"


def test_a_missing_file_is_one_line_with_the_url(serve, tmp_path: Path, target: Path) -> None:
    with pytest.raises(DataError, match=r"http://127.*/absent\.bin cannot be downloaded: HTTP Error 404.*") as caught:
        download(f"{serve(tmp_path)}/absent.bin", target, is_content)
    assert "\n" not in str(caught.value)


def test_without_a_server_it_is_one_line_with_the_url(closed_port: str, target: Path) -> None:
    with pytest.raises(DataError, match=f"{closed_port}/file.bin cannot be downloaded: ") as caught:
        download(f"{closed_port}/file.bin", target, is_content)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_file_appears_only_when_it_is_whole(target: Path) -> None:
    with whole_file(target) as file:
        file.write(b"half")
        file.flush()
        assert not target.exists()
        file.write(b"whole")
    assert target.read_bytes() == b"halfwhole"


def test_an_error_while_writing_leaves_nothing(target: Path) -> None:
    def interrupted() -> None:
        with whole_file(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsize.data import cifar10
from stepsize.data.cifar10 import CIFAR10, FOLDER, TEST_FILE, TRAIN_FILES
from stepsize.data.errors import DataError


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small CIFAR-10 of 12 pictures a file: image i of a file has red i, green 100 + i, blue 200 + i."""
    records = np.zeros((12, 3073), np.uint8)
    records[:, 0] = np.arange(12) % 10
    for channel, base in enumerate((0, 100, 200)):
        records[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)] = base + np.arange(12)[:, None]
    path = tmp_path / "server" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name in (*TRAIN_FILES, TEST_FILE):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    monkeypatch.setattr(cifar10, "EXAMPLES_PER_FILE", 12)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def module(root: Path) -> CIFAR10:
    return CIFAR10(batch_size=8, val_size=10, root=str(root))


@pytest.fixture
def root(tmp_path: Path, archive: Path) -> Path:
    root = tmp_path / "root"
    (root / "cifar10").mkdir(parents=True)
    (root / "cifar10" / archive.name).write_bytes(archive.read_bytes())
    return root


def test_channels_rows_and_labels_are_where_the_format_says(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    assert [len(part[0]) for part in (data.train, data.val, data.test)] == [50, 10, 12]
    x, y = data.test
    assert x.dtype == torch.uint8
    assert x[3, :, 0, 0].tolist() == x[3, :, 31, 31].tolist() == [3, 103, 203]
    assert y.tolist() == [i % 10 for i in range(12)]


def test_batches_are_normalised_by_channel(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    x, _ = next(iter(data.test_dataloader()))
    expected = (torch.tensor([3, 103, 203]) / 255 - torch.tensor(cifar10.MEAN)) / torch.tensor(cifar10.STD)
    torch.testing.assert_close(x[3, :, 5, 6], expected)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 32, 32)


def test_the_archive_is_downloaded(archive: Path, tmp_path: Path, serve, monkeypatch) -> None:
    monkeypatch.setattr(cifar10, "URL", f"{serve(archive.parent)}/{archive.name}")
    module(tmp_path / "new").prepare_data()
    assert len(list((tmp_path / "new" / "cifar10" / FOLDER).iterdir())) == 6


def test_extracted_files_need_no_archive(root: Path, archive: Path) -> None:
    module(root).prepare_data()
    (root / "cifar10" / archive.name).unlink()
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train[0]) == 50


def test_without_network_one_line_names_folder_and_files(archive, tmp_path, closed_port, monkeypatch) -> None:
    monkeypatch.setattr(cifar10, "URL", f"{closed_port}/{archive.name}")
    with pytest.raises(DataError) as caught:
        module(tmp_path / "new").prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (*TRAIN_FILES, TEST_FILE, archive.name, str(tmp_path / "new" / "cifar10")))


def test_a_truncated_archive_is_named_and_not_used(root: Path, archive: Path) -> None:
    path = root / "cifar10" / archive.name
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=f"{path} is corrupt or truncated .*: delete it and run again"):
        module(root).prepare_data()
    assert not (root / "cifar10" / FOLDER).exists()


def test_a_truncated_file_is_named(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    path = root / "cifar10" / FOLDER / TRAIN_FILES[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{path} has 36875 bytes instead of 36876: delete it and run again"):
        data.setup("fit")


def test_an_impossible_label_is_named(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    path = root / "cifar10" / FOLDER / TEST_FILE
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=f"{path} is corrupt"):
        data.setup("fit")

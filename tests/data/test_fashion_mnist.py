import gzip
from pathlib import Path

import pytest
import torch

from stepsize.data import fashion_mnist
from stepsize.data.errors import DataError
from stepsize.data.fashion_mnist import FashionMNIST
from stepsize.data.idx import read_idx

IMAGES = "train-images-idx3-ubyte"
DEBIAN_FOLDER = fashion_mnist.DEBIAN_FOLDER


def loaded(root: Path) -> FashionMNIST:
    data = FashionMNIST(batch_size=8, val_size=10, root=str(root))
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_are_read_gzipped_or_not(fashion_files, write_files, tmp_path: Path, suffix: str) -> None:
    write_files(fashion_files, tmp_path / "fashion_mnist", suffix)
    data = loaded(tmp_path)
    assert [len(part[0]) for part in (data.train, data.val, data.test)] == [50, 10, 20]
    pixels = torch.frombuffer(bytearray(fashion_files[IMAGES][16:]), dtype=torch.uint8).view(60, 784)
    seen = torch.cat([data.train[0], data.val[0]]).flatten(1)
    assert sorted(seen.tolist()) == sorted(pixels.tolist())
    row = {tuple(image): label % 10 for label, image in enumerate(pixels.tolist())}
    assert all(row[tuple(x)] == y for x, y in zip(data.val[0].flatten(1).tolist(), data.val[1].tolist(), strict=True))


def test_batches_are_normalised_floats(fashion_files, write_files, tmp_path: Path) -> None:
    write_files(fashion_files, tmp_path / "fashion_mnist")
    data = loaded(tmp_path)
    x, y = next(iter(data.test_dataloader()))
    assert (x.dtype, x.shape, y.dtype) == (torch.float32, (len(y), 1, 28, 28), torch.int64)
    expected = (data.test[0][: len(y)] / 255 - fashion_mnist.MEAN[0]) / fashion_mnist.STD[0]
    torch.testing.assert_close(x, expected)


def test_files_are_found_in_the_package_folder(fashion_files, write_files, tmp_path: Path, monkeypatch) -> None:
    write_files(fashion_files, tmp_path / "package", ".gz")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "package")
    assert len(loaded(tmp_path / "root").train[0]) == 50
    assert not (tmp_path / "root").exists()


def test_files_are_downloaded_once(fashion_files, write_files, tmp_path: Path, serve, monkeypatch) -> None:
    write_files(fashion_files, tmp_path / "server", ".gz")
    monkeypatch.setattr(fashion_mnist, "URL", serve(tmp_path / "server"))
    loaded(tmp_path / "root")
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9/nothing")
    assert len(loaded(tmp_path / "root").train[0]) == 50


def test_a_download_of_something_else_is_refused(fashion_files, write_files, tmp_path, serve, monkeypatch) -> None:
    write_files(fashion_files | {IMAGES: b"something else"}, tmp_path / "server", ".gz")
    monkeypatch.setattr(fashion_mnist, "URL", serve(tmp_path / "server"))
    with pytest.raises(DataError, match="its checksum is wrong"):
        FashionMNIST(root=str(tmp_path / "root")).prepare_data()
    assert list((tmp_path / "root" / "fashion_mnist").iterdir()) == []


def test_without_network_one_line_names_folders_and_files(fashion_files, tmp_path, closed_port, monkeypatch) -> None:
    monkeypatch.setattr(fashion_mnist, "URL", closed_port)
    with pytest.raises(DataError) as caught:
        FashionMNIST(root=str(tmp_path)).prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in (*fashion_files, str(tmp_path / "fashion_mnist"), "no-such-package"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"\x00\x00\x0d" + data[3:], "is not an IDX file of bytes"),
        (lambda data: data[:7], "is not an IDX file of bytes"),
        (lambda data: b"", "is not an IDX file of bytes"),
        (lambda data: data[:-1], "holds 47039 values and its header tells 47040"),
        (lambda data: data + b"x", "holds 47041 values and its header tells 47040"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256 differs"),
        (lambda data: gzip.compress(data)[:-100], "is corrupt or truncated"),
        (lambda data: b"\x1f\x8b" + data, "is corrupt or truncated"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(fashion_files, write_files, tmp_path, damage, message: str) -> None:
    folder = tmp_path / "fashion_mnist"
    write_files(fashion_files | {IMAGES: damage(fashion_files[IMAGES])}, folder)
    with pytest.raises(DataError, match=f"{folder / IMAGES} .*{message}.*: delete it and run again"):
        loaded(tmp_path)


def test_a_missing_file_is_named_while_loading(fashion_files, write_files, tmp_path) -> None:
    write_files(fashion_files, tmp_path / "fashion_mnist")
    (tmp_path / "fashion_mnist" / IMAGES).unlink()
    with pytest.raises(DataError, match=f"{IMAGES} is neither in"):
        FashionMNIST(root=str(tmp_path)).setup("fit")


def test_making_the_module_touches_no_file(tmp_path: Path) -> None:
    FashionMNIST(root=str(tmp_path / "root"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs the published files: apt install dataset-fashion-mnist")
def test_the_published_files_have_the_stated_sums_mean_and_deviation() -> None:
    name, sha256 = next(iter(fashion_mnist.FILES.items()))
    pixels = read_idx(DEBIAN_FOLDER / f"{name}.gz", sha256).double() / 255
    assert pixels.shape == (fashion_mnist.NUM_TRAIN, 28, 28)
    torch.testing.assert_close(pixels.mean().item(), fashion_mnist.MEAN[0])
    torch.testing.assert_close(pixels.std(correction=0).item(), fashion_mnist.STD[0])
    for name, sha256 in list(fashion_mnist.FILES.items())[1:]:
        read_idx(DEBIAN_FOLDER / f"{name}.gz", sha256)

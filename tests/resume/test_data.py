"""Images, signals and text, augmented, with the network that each is for."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cutting import Cut, Run, assert_same

from stepsize.data import fashion_mnist

Made = Callable[..., Run]
CUTS = pytest.mark.parametrize(
    "cut", [Cut("step", 1, 2), Cut("validation", 1, 4), Cut("validated", 1, 4), Cut("batch", 2, 2)], ids=str
)
WORDS = ("optimizer.lr=0.01", "trainer.max_epochs=3", "data.batch_size=16")


@pytest.fixture
def clothes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A small Fashion-MNIST of random pixels, the only one that the module knows of; the word for its folder."""
    rng, folder, digests = np.random.default_rng(0), tmp_path / "data" / "fashion_mnist", {}
    folder.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        shape = (160, 28, 28) if "images" in name else (160,)
        values = rng.integers(0, 256 if "images" in name else 10, shape)
        data = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + values.astype("u1").tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        digests[name] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(fashion_mnist, "FILES", digests)
    return f"data.root={folder.parent}"


@CUTS
def test_images_that_are_cropped_and_flipped(whole: Made, cut_off: Made, clothes: str, cut: Cut) -> None:
    augmented = ("data=fashion_mnist", "data.val_size=80", "data.crop_padding=3", clothes)
    words = (*WORDS, *augmented, "model=convnet", "model.widths=[4,8]", "model.dropout=0.2")
    assert_same(cut_off([cut], *words), whole(*words))


@CUTS
def test_signals_that_are_shifted(whole: Made, cut_off: Made, cut: Cut) -> None:
    words = (*WORDS, "data=mnist1d", "data.max_shift=3", "model=convnet", "model.widths=[4,8]", "model.dropout=0.2")
    assert_same(cut_off([cut], *words), whole(*words))


@CUTS
def test_text_with_windows_drawn_at_random(whole: Made, cut_off: Made, tmp_path: Path, cut: Cut) -> None:
    text = tmp_path / "some.txt"
    text.write_bytes(np.random.default_rng(0).integers(32, 127, 20_000).astype("u1").tobytes())
    words = (*WORDS, "data=text", f"data.path={text}", "data.context_length=32")
    network = ("model=gpt", "model.num_layers=1", "model.num_heads=2", "model.width=16", "model.dropout=0.2")
    assert_same(cut_off([cut], *words, *network), whole(*words, *network))

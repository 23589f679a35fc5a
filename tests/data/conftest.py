import gzip
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from stepsize.data import fashion_mnist


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start an HTTP server over a folder; returns its address."""
    servers = []

    def start(folder: Path, handler: type[SimpleHTTPRequestHandler] = Quiet) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed_port() -> str:
    """Return an address where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        port = server.server_port
    return f"http://127.0.0.1:{port}"


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype("u1").tobytes()


@pytest.fixture
def fashion_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Make a small Fashion-MNIST, 60 for training and 20 for the test, the only one that the module knows of."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (60, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(60) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(20) % 10,
    }
    files = {name: idx_bytes(array) for name, array in arrays.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-such-package")
    return files


@pytest.fixture
def write_files() -> Callable[..., None]:
    def write(files: dict[str, bytes], folder: Path, suffix: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix == ".gz" else data)

    return write


class Recorder(L.LightningModule):
    """A linear model that remembers what it has seen."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(num_inputs, num_classes)
        self.seen: list[tuple[int, int, Tensor]] = []
        self.val_y: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append((self.current_epoch, batch_idx, x.clone()))
        return torch.nn.functional.cross_entropy(
            self.layer(x.flatten(1).float()), y.flatten(1)[:, 0] if y.dim() > 1 else y
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_y.append(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def recorder() -> Callable[[L.LightningDataModule], Recorder]:
    """Make the model for a data module."""
    return lambda data: Recorder(int(np.prod(data.input_shape)), data.num_classes)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def make(**arguments: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(**defaults | arguments)

    return make

"""Data modules inside Lightning's trainer."""

import ast
import copy
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from stepsize.data import DATA
from stepsize.data.digits import Digits
from stepsize.data.module import DataModule
from stepsize.data.order import EpochOrder
from stepsize.data.text import Text

# Lightning's own: lightning/pytorch/utilities/_pytree.py makes a LeafSpec.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


def resolve(word: str) -> type[DataModule]:
    module, name = DATA[word].rsplit(".", 1)
    found: type[DataModule] = getattr(import_module(module), name)
    return found


class SaveAlways(L.Callback):
    """Save a checkpoint wherever one can be saved, with the number of batches seen until then in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: L.Trainer, where: str) -> None:
        trainer.save_checkpoint(self.folder / f"{len(trainer.lightning_module.seen)}-{where}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "batch")

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.save(trainer, "epoch")


@pytest.mark.parametrize("word", DATA)
def test_everything_a_network_needs_is_known_before_loading(word: str) -> None:
    data = resolve(word)(batch_size=4)
    assert all(isinstance(size, int) for size in data.input_shape)
    assert data.num_classes > 1
    assert data.kind in ("values", "tokens")
    assert data.metrics
    assert not data._is_loaded


@pytest.mark.parametrize("word", DATA)
def test_a_signature_can_be_read_statically(word: str) -> None:
    for parameter in list(inspect.signature(resolve(word).__init__).parameters.values())[1:]:
        assert parameter.annotation is not parameter.empty
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert ast.literal_eval(repr(parameter.default)) == parameter.default


@pytest.mark.parametrize("word", DATA)
def test_an_impossible_batch_size_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        resolve(word)(batch_size=0)


def test_listing_imports_nothing() -> None:
    code = (
        "import sys, stepsize.data; print([m for m in ('torch', 'lightning', 'numpy', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_each_epoch_has_the_order_of_its_number(make_trainer, recorder) -> None:
    data = Digits(batch_size=100, seed=7)
    model = recorder(data)
    make_trainer(max_epochs=3).fit(model, datamodule=data)
    assert len(model.seen) == 30
    for epoch in range(3):
        order = EpochOrder(7)
        order.set_epoch(epoch)
        seen = torch.cat([x for e, _, x in model.seen if e == epoch])
        assert torch.equal(seen, data.train[0][order.permutation(1079)[:1000]])


def test_validation_sees_each_example_once_an_epoch_in_order(make_trainer, recorder) -> None:
    data = Digits(batch_size=100)
    model = recorder(data)
    make_trainer(max_epochs=2).fit(model, datamodule=data)
    assert torch.equal(torch.cat(model.val_y), torch.cat([data.val[1]] * 2))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"val_check_interval": 3},
        {"limit_train_batches": 7},
        {"accumulate_grad_batches": 4},
        {"limit_val_batches": 0},
    ],
    ids=str,
)
def test_a_resumed_run_sees_the_batches_that_it_would_have_seen(make_trainer, recorder, tmp_path, arguments) -> None:
    data = Digits(batch_size=100, crop_padding=1)
    whole = recorder(data)
    make_trainer(max_epochs=3, callbacks=[SaveAlways(tmp_path)], **arguments).fit(whole, datamodule=data)
    for checkpoint in sorted(tmp_path.glob("*.ckpt")):
        num_seen = int(checkpoint.name.split("-")[0])
        num_batches = arguments.get("limit_train_batches", 10)
        position = torch.load(checkpoint, weights_only=True)["Digits"]["position"]
        epoch, seen_before = divmod(num_seen - 1, num_batches)
        assert position == [epoch, seen_before + 1]
        resumed = recorder(data)
        make_trainer(max_epochs=3, **arguments).fit(
            resumed, datamodule=Digits(batch_size=100, crop_padding=1), ckpt_path=checkpoint, weights_only=True
        )
        assert len(resumed.seen) == len(whole.seen) - num_seen, checkpoint.name
        for (epoch, batch, x), expected in zip(resumed.seen, whole.seen[num_seen:], strict=True):
            assert (epoch, batch) == expected[:2]
            assert torch.equal(x, expected[2])


def test_a_second_fit_of_a_resumed_module_begins_at_the_beginning(make_trainer, recorder) -> None:
    data = Digits(batch_size=100)
    data.load_state_dict({"position": [0, 5]})
    model = recorder(data)
    make_trainer(max_epochs=1).fit(model, datamodule=data)
    assert len(model.seen) == 10


def test_the_position_survives_without_a_trainer() -> None:
    data = Digits()
    data.load_state_dict({"position": [3, 2], "world_size": 1})
    assert data.state_dict() == {"position": [3, 2], "world_size": 1}


@pytest.mark.parametrize(
    ("before", "now", "batch", "expected"), [(1, 2, 3, 2), (1, 2, 4, 2), (2, 1, 3, 6), (2, 3, 2, 2)]
)
def test_with_another_number_of_processes_no_example_of_an_epoch_is_seen_again(
    monkeypatch: pytest.MonkeyPatch, before: int, now: int, batch: int, expected: int
) -> None:
    monkeypatch.setattr(Digits, "world_size", now)
    data = Digits()
    data.load_state_dict({"position": [3, batch], "world_size": before})
    assert data.position == (3, expected)
    assert expected * now >= batch * before


def test_overfitting_a_few_batches_sees_the_same_ones_in_every_epoch(make_trainer, recorder) -> None:
    data = Digits(batch_size=100, crop_padding=2)
    model = recorder(data)
    make_trainer(max_epochs=2, overfit_batches=3).fit(model, datamodule=data)
    assert len(model.seen) == 6
    assert all(torch.equal(model.seen[i][2], model.seen[i + 3][2]) for i in range(3))


def test_loading_happens_once(make_trainer, recorder, monkeypatch) -> None:
    data = Digits(batch_size=100)
    calls = []
    read = data.read
    monkeypatch.setattr(data, "read", lambda: calls.append(1) or read())
    trainer = make_trainer(max_epochs=1)
    trainer.fit(recorder(data), datamodule=data)
    trainer.validate(recorder(data), datamodule=data, verbose=False)
    assert calls == [1]


def test_text_trains(make_trainer, recorder, tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(bytes(range(256)) * 10)
    data = Text(batch_size=4, context_length=16, path=str(file), root=str(tmp_path))
    model = recorder(data)
    make_trainer(max_epochs=2).fit(model, datamodule=data)
    assert len(model.seen) == 2 * len(data.train_dataloader())
    assert sum(len(y) for y in model.val_y) == 2 * (128 - 1) // 16 - 1


def test_a_batch_on_the_device_is_handed_on_as_it_is() -> None:
    batch = (torch.zeros(2), torch.zeros(2))
    data = Digits()
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    assert data.transfer_batch_to_device(batch, torch.device("meta"), 0)[0].device.type == "meta"


def test_rank_and_number_of_processes_are_the_trainers(make_trainer) -> None:
    class Two:
        global_rank, world_size, overfit_batches = 1, 2, 0.0

    data = Digits(batch_size=10)
    data.setup("fit")
    alone = copy.copy(data)
    alone.batch_size = 20
    data.trainer = Two()
    expected = [y[10:] for _, y in alone.train_dataloader()]
    assert all(torch.equal(y, half) for (_, y), half in zip(data.train_dataloader(), expected, strict=True))
    assert sum(len(y) for _, y in data.test_dataloader()) == 170 + 9  # 359 = 17 x 20 + 19, of which the second half

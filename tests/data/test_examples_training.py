"""Examples inside Lightning's trainer, in one process and in two."""

import multiprocessing
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from stepsize.data.examples import Examples
from stepsize.data.order import EpochOrder

sys.path.insert(0, str(Path(__file__).parents[1]))  # where train.py finds the data module too, by PYTHONPATH

from loaded_digits import LoadedDigits, Noisy

pytestmark = [
    # Lightning's own: lightning/pytorch/utilities/_pytree.py makes a LeafSpec.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Python 3.12 and later warn of what every DataLoader does.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # torch, where there is one core
]


def seen(model: Any) -> list[Tensor]:
    """The inputs that a model was trained on, batch by batch."""
    return [x for _, _, x in model.seen]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return bool(one) and all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


class Save(L.Callback):
    """Save a checkpoint after some batch of the run."""

    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if len(trainer.lightning_module.seen) == self.after:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_sees_each_epoch_in_its_order_and_validates_on_each_example_once(
    make_trainer, recorder, num_workers: int
) -> None:
    data = LoadedDigits(batch_size=100, seed=7, num_workers=num_workers)
    model = recorder(data)
    make_trainer(max_epochs=2).fit(model, datamodule=data)
    noisy = Noisy(*data.train)
    expected = [x for epoch in (0, 1) for x, _ in Examples(noisy, 100, order=EpochOrder(7, start=(epoch, 0)))]
    assert equal(seen(model), expected)
    assert not torch.equal(expected[0], expected[10])
    assert torch.equal(torch.cat(model.val_y), torch.cat([data.val[1]] * 2))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("after", [3, 14])
def test_a_resumed_fit_sees_the_batches_that_it_would_have_seen(
    make_trainer, recorder, tmp_path: Path, after: int, num_workers: int
) -> None:
    data = LoadedDigits(batch_size=100)
    whole, path = recorder(data), tmp_path / "some.ckpt"
    make_trainer(max_epochs=2, callbacks=[Save(path, after)]).fit(whole, datamodule=data)
    resumed = recorder(data)
    again = LoadedDigits(batch_size=100, num_workers=num_workers)
    make_trainer(max_epochs=2).fit(resumed, datamodule=again, ckpt_path=path, weights_only=True)
    assert equal(seen(resumed), seen(whole)[after:])


def test_a_fit_draws_the_same_numbers_with_workers_and_without(make_trainer, recorder) -> None:
    def drawn(num_workers: int) -> list[float]:
        L.seed_everything(3, verbose=False)
        data = LoadedDigits(batch_size=100, num_workers=num_workers)
        make_trainer(max_epochs=2, num_sanity_val_steps=2).fit(recorder(data), datamodule=data)
        return [random.random(), np.random.random(), torch.rand(()).item()]

    assert drawn(0) == drawn(2)


def test_overfitting_sees_the_same_examples_in_every_epoch(make_trainer, recorder) -> None:
    data = LoadedDigits(batch_size=100, num_workers=2)
    model = recorder(data)
    make_trainer(max_epochs=2, overfit_batches=3).fit(model, datamodule=data)
    assert equal(seen(model)[:3], seen(model)[3:])


def test_no_worker_is_left_when_a_fit_is_over(make_trainer, recorder) -> None:
    before = multiprocessing.active_children()
    data = LoadedDigits(batch_size=100, num_workers=2)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(recorder(data), datamodule=data)
    assert trainer.train_dataloader is not None
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.parametrize("hook", ["training_step", "on_train_epoch_end", "validation_step", "on_validation_end"])
def test_no_worker_is_left_when_a_fit_fails(make_trainer, recorder, hook: str) -> None:
    before = multiprocessing.active_children()
    data = LoadedDigits(batch_size=100, num_workers=2)
    trainer, model = make_trainer(max_epochs=1), recorder(data)
    reading = []

    def fail(*args: object) -> None:
        reading.extend(set(multiprocessing.active_children()) - set(before))
        raise ZeroDivisionError

    setattr(model, hook, fail)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, datamodule=data)
    assert len(reading) >= 2
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What each of two processes saw over two epochs."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).parent / "two_processes.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True, timeout=240)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_together_train_on_the_batches_of_one(two: list[dict[str, torch.Tensor]]) -> None:
    data = LoadedDigits(batch_size=100)
    data.load(torch.device("cpu"))
    noisy = Noisy(*data.train)
    expected = [x for epoch in (0, 1) for x, _ in Examples(noisy, 100, order=EpochOrder(0, start=(epoch, 0)))]
    together = torch.cat([told["train_x"].unflatten(0, (-1, 50)) for told in two], dim=1)
    assert torch.equal(together, torch.stack(expected))


def test_two_processes_together_validate_on_each_example_once(two: list[dict[str, torch.Tensor]]) -> None:
    data = LoadedDigits()
    data.load(torch.device("cpu"))
    seen = torch.cat([told["val_x"] for told in two]).flatten(1)
    expected = data.val[0].flatten(1).repeat(2, 1)  # two validations
    assert torch.equal(torch.tensor(sorted(seen.tolist())), torch.tensor(sorted(expected.tolist())))


def test_two_processes_have_equally_many_batches_to_validate(two: list[dict[str, torch.Tensor]]) -> None:
    # 359 = 3 x 2 x 50 + 59: the last batches have 30 and 29
    assert [told["val_sizes"].tolist() for told in two] == [[50, 50, 50, 30] * 2, [50, 50, 50, 29] * 2]

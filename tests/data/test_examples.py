import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, default_collate

from stepsize.data.errors import DataError
from stepsize.data.examples import Examples
from stepsize.data.order import EpochOrder

sys.path.insert(0, str(Path(__file__).parents[1]))  # where train.py finds the data module too, by PYTHONPATH

from loaded_digits import LoadedDigits, Noisy

pytestmark = [
    # Python 3.12 and later warn of what every DataLoader does.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # torch, where there is one core
]

X = torch.arange(103.0).view(-1, 1).expand(-1, 3).contiguous()
Y = torch.arange(103)
PLAIN = list(zip(X, Y, strict=True))
NOISY = Noisy(X, Y)


def examples(
    rank: int = 0, world_size: int = 1, seed: int = 0, start: tuple[int, int] = (0, 0), **arguments: Any
) -> Examples:
    batch_size = arguments.pop("batch_size", 10)
    return Examples(NOISY, batch_size, rank, world_size, EpochOrder(seed, start), **arguments)


def equal(one: Any, other: Any) -> bool:
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def random_states() -> list[Any]:
    numpy = np.random.get_state(legacy=False)
    return [random.getstate(), numpy["gauss"], numpy["state"]["key"].tolist(), torch.get_rng_state().tolist()]


def draws(examples: list[Any]) -> torch.Tensor:
    return torch.tensor([random.random() + np.random.random() + torch.rand(()).item() for _ in examples])


def pids(examples: list[Any]) -> list[int]:
    return [os.getpid() for _ in examples]


@pytest.mark.parametrize("start", [(0, 0), (0, 4), (3, 9)])
def test_batches_do_not_depend_on_the_number_of_workers(start: tuple[int, int]) -> None:
    assert equal(examples(start=start), examples(start=start, num_workers=2))
    assert equal(examples(start=start), examples(start=start, num_workers=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_is_the_rest_of_it_and_the_next_one_is_whole(num_workers: int) -> None:
    whole, resumed = examples(start=(1, 0)), examples(start=(1, 4), num_workers=num_workers)
    assert equal(resumed, list(whole)[4:])
    for batches in (whole, resumed):
        batches.sampler.set_epoch(2)
    assert equal(resumed, whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_the_last_batch_comes_none_and_then_a_whole_epoch(num_workers: int) -> None:
    batches = examples(start=(1, 10), num_workers=num_workers)
    assert list(batches) == []
    assert len(batches) == 10
    batches.sampler.set_epoch(2)
    assert equal(batches, examples(start=(2, 0)))


def test_an_epoch_follows_the_permutation_of_seed_and_epoch() -> None:
    batches = Examples(PLAIN, 10, order=EpochOrder(5, start=(2, 0)))
    order = EpochOrder(5)
    order.set_epoch(2)
    assert torch.equal(torch.cat([y for _, y in batches]), order.permutation(103)[:100])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_that_was_left_in_the_middle_leaves_nothing_to_the_next(num_workers: int) -> None:
    batches = examples(num_workers=num_workers)
    for _, _ in zip(range(3), batches, strict=False):
        pass
    assert equal(batches, examples())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_generators_of_the_run_are_untouched(num_workers: int) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = random_states()
    for _ in examples(num_workers=num_workers):
        assert random_states() == before
    assert random_states() == before


def test_the_generator_of_a_gpu_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    list(examples())
    assert seeded == []


def test_the_generators_of_the_run_are_untouched_where_an_example_cannot_be_read() -> None:
    before = random_states()
    with pytest.raises(ZeroDivisionError):
        list(Examples(PLAIN, 10, collate_fn=lambda batch: random.random() / 0))
    assert random_states() == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_drawn_before_changes_nothing(num_workers: int) -> None:
    expected = list(examples())
    draws([None] * 100)
    assert equal(examples(num_workers=num_workers), expected)


def test_the_libraries_draw_unrelated_numbers() -> None:
    class Draws:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> torch.Tensor:
            mersenne = [random.random(), np.random.random(), torch.rand((), dtype=torch.float64).item()]
            return torch.tensor([*mersenne, random.random(), np.random.random(), torch.rand(()).item()])

    (drawn,) = Examples(Draws(), 100)
    correlation = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.4


def test_each_example_is_augmented_anew_by_seed_epoch_and_index() -> None:
    same = Noisy(torch.zeros(40, 3), torch.zeros(40))
    runs = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    drawn = [x for s, e in runs for x, _ in Examples(same, 40, order=EpochOrder(s, start=(e, 0)))]
    assert len(torch.cat(drawn).unique(dim=0)) == 4 * 40


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_collate_fn_draws_is_a_function_of_the_batch(num_workers: int) -> None:
    torch.manual_seed(num_workers)
    drawn = torch.stack(list(examples(collate_fn=draws, num_workers=num_workers)))
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.stack(list(examples(collate_fn=draws))))
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_batch_of_one_process(world_size: int) -> None:
    ranks = [list(examples(rank, world_size, batch_size=5)) for rank in range(world_size)]
    together = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert equal(together, examples(batch_size=5 * world_size))


def test_training_drops_the_incomplete_batch_and_len_says_so() -> None:
    assert [len(y) for _, y in examples()] == [10] * 10
    assert len(examples()) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("n", [1, 24, 97])
def test_evaluation_sees_each_example_once_in_equally_many_batches(n: int, world_size: int, num_workers: int) -> None:
    loaders = [Examples(PLAIN[:n], 8, rank, world_size, num_workers=num_workers) for rank in range(world_size)]
    ranks = [[y for _, y in loader] for loader in loaders]
    assert {len(rank) for rank in ranks} == {len(loader) for loader in loaders} == {-(-n // (8 * world_size))}
    in_order = torch.cat([rank[k] for k in range(len(ranks[0])) for rank in ranks])
    assert torch.equal(in_order, Y[:n])


def test_evaluation_is_the_same_each_time_also_where_the_data_are_random() -> None:
    batches = Examples(NOISY, 10)
    draws([None])
    assert equal(batches, list(Examples(NOISY, 10, num_workers=2)))
    assert equal(batches, batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rank_without_examples_gets_an_empty_batch_of_the_right_shape(num_workers: int) -> None:
    dataset = [{"x": torch.zeros(3), "pair": (np.zeros(2, "float32"), 7)}]
    (batch,) = Examples(dataset, 8, rank=1, world_size=2, num_workers=num_workers)
    x, (vector, number) = batch["x"], batch["pair"]
    assert (x.shape, vector.shape, number.shape) == ((0, 3), (0, 2), (0,))
    assert (x.dtype, vector.dtype, number.dtype) == (torch.float32, torch.float32, torch.int64)


def test_a_batch_is_what_collate_fn_makes_of_it() -> None:
    batches = Examples(PLAIN, 10, collate_fn=lambda batch: np.array([int(y) for _, y in batch]))
    assert all(isinstance(batch, np.ndarray) for batch in batches)


def test_workers_live_on_from_one_epoch_to_the_next() -> None:
    batches = examples(num_workers=2, collate_fn=pids)
    first, second = ({pid for batch in batches for pid in batch} for _ in range(2))
    assert first == second
    assert len(first) == 2
    assert os.getpid() not in first


def test_workers_are_forked_also_where_a_fork_server_is_the_default_as_in_a_trial() -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert equal(examples(num_workers=1, collate_fn=lambda batch: default_collate(batch)), examples())
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_too_few_examples_for_one_global_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"got 40: the training set has 103 examples and a global batch 120"):
        examples(batch_size=40, world_size=3)


def test_a_data_set_without_indices_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(100))

    with pytest.raises(TypeError, match="dataset must be read by index, but Stream can only be iterated over"):
        Examples(Stream(), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "num_workers", "pinned"), [("cuda", 2, True), ("cuda", 0, False), ("cpu", 2, False)]
)
def test_memory_is_pinned_for_the_batches_that_workers_read_for_a_gpu(
    device: str, num_workers: int, pinned: bool
) -> None:
    data = LoadedDigits()
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
    assert data.loader(PLAIN, num_workers=num_workers).loader.pin_memory is pinned


def test_the_default_collation_is_torchs() -> None:
    assert equal(Examples(PLAIN, 8), [default_collate(PLAIN[k : k + 8]) for k in range(0, 103, 8)])

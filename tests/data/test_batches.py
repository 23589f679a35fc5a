import pytest
import torch

from stepsize.data.augment import random_flip
from stepsize.data.batches import Batches, share
from stepsize.data.errors import DataError
from stepsize.data.order import EpochOrder

X = torch.arange(103.0).view(-1, 1).expand(-1, 3).contiguous()
Y = torch.arange(103)


def train(batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0, epoch: int = 0) -> list[torch.Tensor]:
    order = EpochOrder(seed)
    order.set_epoch(epoch)
    return [y for _, y in Batches(X, Y, batch_size, rank, world_size, order)]


def test_a_target_belongs_to_its_input() -> None:
    for x, y in Batches(X, Y, 10, order=EpochOrder(0)):
        assert torch.equal(x, X[y])


def test_an_epoch_follows_the_permutation_of_seed_and_epoch() -> None:
    order = EpochOrder(5)
    order.set_epoch(2)
    expected = order.permutation(103)[:100]
    assert torch.equal(torch.cat(train(10, seed=5, epoch=2)), expected)


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(torch.cat(train(10, seed=s, epoch=e)).tolist()) for s in range(3) for e in range(3)]
    assert len(set(orders)) == 9


def test_iterating_twice_gives_the_same_epoch() -> None:
    batches = Batches(X, Y, 10, order=EpochOrder(0))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, batches, strict=True))


def test_training_drops_the_incomplete_batch_and_len_says_so() -> None:
    assert [len(y) for y in train(10)] == [10] * 10
    assert len(Batches(X, Y, 10, order=EpochOrder(0))) == 10


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_see_the_batch_of_one_process(world_size: int) -> None:
    ranks = [train(5, rank, world_size) for rank in range(world_size)]
    alone = train(5 * world_size)
    assert len(alone) == len(ranks[0])
    for k, batch in enumerate(alone):
        assert torch.equal(torch.cat([rank[k] for rank in ranks]), batch)


def test_ranks_do_not_overlap() -> None:
    ranks = [torch.cat(train(5, rank, 3)) for rank in range(3)]
    assert len(torch.cat(ranks).unique()) == sum(map(len, ranks))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 24, 97, 103])
def test_evaluation_sees_each_example_once_in_equally_many_batches(world_size: int, n: int) -> None:
    ranks = [[y for _, y in Batches(X[:n], Y[:n], 8, rank, world_size)] for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(Batches(X[:n], Y[:n], 8, 0, world_size))
    in_order = torch.cat([rank[k] for k in range(len(ranks[0])) for rank in ranks])
    assert torch.equal(in_order, Y[:n])


def test_a_rank_without_examples_gets_an_empty_batch_of_the_right_shape() -> None:
    ((x, y),) = Batches(X[:1], Y[:1], 8, rank=1, world_size=2)
    assert x.shape == (0, 3)
    assert y.shape == (0,)


def test_too_few_examples_for_one_global_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"got 40: the training set has 103 examples and a global batch 120"):
        Batches(X, Y, 40, world_size=3, order=EpochOrder(0))


def test_a_resumed_epoch_is_the_rest_of_it_and_the_next_one_is_whole() -> None:
    order = EpochOrder(0, start=(1, 4))
    batches = Batches(X, Y, 10, order=order)
    assert torch.equal(torch.cat([y for _, y in batches]), torch.cat(train(10, epoch=1)[4:]))
    order.set_epoch(2)
    assert torch.equal(torch.cat([y for _, y in batches]), torch.cat(train(10, epoch=2)))


def test_augmentation_depends_on_seed_epoch_batch_and_rank_alone() -> None:
    def augmented(rank: int = 0, epoch: int = 0, start: int = 0) -> list[torch.Tensor]:
        order = EpochOrder(0, start=(epoch, start))
        x = torch.arange(200 * 4.0).view(200, 4)
        same = torch.zeros_like(x) + torch.arange(4)  # all alike, so that only the augmentation differs
        return [x for x, _ in Batches(same, x[:, 0], 50, rank, 2, order, [random_flip])]

    whole = augmented()
    assert torch.equal(whole[1], augmented(start=1)[0])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], augmented(rank=1)[0])
    assert not torch.equal(whole[0], augmented(epoch=1)[0])


def test_evaluation_is_not_augmented() -> None:
    batches = Batches(X, Y, 8, augmentations=[lambda x, generator: x + 1])
    assert torch.equal(torch.cat([x for x, _ in batches]), X)


def test_prepare_comes_last() -> None:
    batches = Batches(X, Y, 8, order=EpochOrder(0), augmentations=[lambda x, g: x + 1], prepare=lambda x: x * 2)
    x, y = next(iter(batches))
    assert torch.equal(x, (X[y] + 1) * 2)


def test_the_global_random_state_is_neither_read_nor_advanced() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [x for x, _ in Batches(X, Y, 10, order=EpochOrder(0), augmentations=[random_flip])]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = [x for x, _ in Batches(X, Y, 10, order=EpochOrder(0), augmentations=[random_flip])]
    assert all(map(torch.equal, first, again))


def test_changing_a_batch_in_place_leaves_the_data_alone() -> None:
    data = X.clone()
    for x, _ in [*Batches(data, Y, 8), *Batches(data, Y, 8, order=EpochOrder(0))]:
        x.zero_()
    assert torch.equal(data, X)


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(Batches(X, Y, 10))
    monkeypatch.setattr("stepsize.data.batches.CHUNK_BYTES", 250)  # two batches of 10 x 3 floats
    chunked = list(Batches(X, Y, 10))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole, chunked, strict=True))


def test_only_shuffled_batches_have_a_sampler() -> None:
    assert not hasattr(Batches(X, Y, 8), "sampler")
    assert isinstance(Batches(X, Y, 8, order=EpochOrder(0)).sampler, EpochOrder)


def test_share_by_hand() -> None:
    parts = share(torch.arange(11), 2, rank=1, world_size=2)
    assert [part.tolist() for part in parts] == [[2, 3], [6, 7], [10]]
    assert [part.tolist() for part in share(torch.arange(11), 2, 0, 2)] == [[0, 1], [4, 5], [8, 9]]

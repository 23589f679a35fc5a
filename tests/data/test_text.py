import os
from pathlib import Path

import pytest
import torch

from stepsize.data.corpus import corpus_file
from stepsize.data.errors import DataError
from stepsize.data.order import EpochOrder
from stepsize.data.text import Text
from stepsize.data.windows import Windows

TEXT = torch.randint(0, 256, (1001,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def as_bytes(tokens: torch.Tensor) -> bytes:
    return bytes(tokens.tolist())


def drawn(batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0, start: tuple[int, int] = (0, 0)):
    return list(Windows(TEXT, 10, batch_size, rank, world_size, EpochOrder(seed, start)))


def test_drawn_windows_are_pieces_of_the_text_and_y_is_what_follows() -> None:
    text = as_bytes(TEXT)
    for x, y in drawn(8):
        assert (x.shape, x.dtype, y.dtype) == ((8, 10), torch.int64, torch.int64)
        assert torch.equal(x[:, 1:], y[:, :-1])
        for before, after in zip(x, y, strict=True):
            assert as_bytes(torch.cat([before, after[-1:]])) in text


def test_an_epoch_has_as_many_windows_as_the_text_in_whole_global_batches() -> None:
    assert len(drawn(8)) == len(Windows(TEXT, 10, 8, order=EpochOrder(0))) == 100 // 8
    assert len(drawn(8, world_size=2)) == 100 // 16


def test_the_first_and_the_last_window_can_be_drawn() -> None:
    windows = Windows(TEXT[:13], 10, 1, order=EpochOrder(0))
    starts = set()
    for epoch in range(50):
        windows.sampler.set_epoch(epoch)
        starts |= {as_bytes(x[0]) for x, _ in windows}
    assert starts == {as_bytes(TEXT[i : i + 10]) for i in range(3)}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_draw_what_one_process_draws(world_size: int) -> None:
    ranks = [drawn(4, rank, world_size) for rank in range(world_size)]
    for k, (x, y) in enumerate(drawn(4 * world_size)):
        assert torch.equal(torch.cat([rank[k][0] for rank in ranks]), x)
        assert torch.equal(torch.cat([rank[k][1] for rank in ranks]), y)


def test_windows_are_a_function_of_seed_epoch_and_batch() -> None:
    state = torch.get_rng_state()
    whole = drawn(8, start=(1, 0))
    assert torch.equal(whole[3][0], drawn(8, start=(1, 3))[0][0])
    assert not torch.equal(whole[0][0], drawn(8)[0][0])
    assert not torch.equal(whole[0][0], whole[1][0])
    assert not torch.equal(drawn(8, seed=1)[0][0], drawn(8)[0][0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("n", [11, 21, 1001, 1000])
def test_evaluation_sees_every_window_once_in_equally_many_batches(world_size: int, n: int) -> None:
    ranks = [list(Windows(TEXT[:n], 10, 8, rank, world_size)) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {len(Windows(TEXT[:n], 10, 8, 0, world_size))}
    x, y = (torch.cat([rank[k][i] for k in range(len(ranks[0])) for rank in ranks]) for i in (0, 1))
    covered = (n - 1) // 10 * 10
    assert as_bytes(x.flatten()) == as_bytes(TEXT[:covered])
    assert as_bytes(y.flatten()) == as_bytes(TEXT[1 : covered + 1])


def test_too_few_windows_for_one_global_batch_are_refused() -> None:
    with pytest.raises(DataError, match="100 examples and a global batch 120"):
        Windows(TEXT, 10, 60, world_size=2, order=EpochOrder(0))


def text_module(path: Path | None, tmp_path: Path, **arguments) -> Text:
    data = Text(
        **{"batch_size": 2, "context_length": 10, "path": path and str(path), "root": str(tmp_path)} | arguments
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_parts_are_the_text_from_front_to_back(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(as_bytes(TEXT))
    data = text_module(file, tmp_path, val_fraction=0.2, test_fraction=0.1)
    assert as_bytes(torch.cat([data.train, data.val, data.test])) == as_bytes(TEXT)
    assert [len(data.train), len(data.val), len(data.test)] == [701, 200, 100]
    assert list(tmp_path.iterdir()) == [file]


def test_training_never_changes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(as_bytes(TEXT))
    text_module(file, tmp_path).train.zero_()
    assert file.read_bytes() == as_bytes(TEXT)


def test_a_folder_is_joined_in_order_without_binary_and_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "b").mkdir(parents=True)
    (folder / "c.txt").write_text("three")
    (folder / "b" / "two.txt").write_text("two ")
    (folder / "a.txt").write_text("one ")
    (folder / "b" / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    assert corpus_file(str(folder), tmp_path / "cache").read_text() == "one two three"


def test_a_joined_folder_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    first = corpus_file(str(folder), tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert corpus_file(str(folder), tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    (folder / "a.txt").write_text("two")
    os.utime(folder / "a.txt", (1, 1))
    assert corpus_file(str(folder), tmp_path / "cache").read_text() == "two"


def test_the_default_is_the_standard_library_without_its_tests(tmp_path: Path) -> None:
    text = corpus_file(None, tmp_path).read_bytes()
    assert 5_000_000 < len(text) < 30_000_000
    assert b"class TextWrapper:" in text
    assert b"class TestCase(object):" in text  # unittest is part of the library
    assert b"class TextWrapTestCase(" not in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist: give a text file or a folder of text files"),
        (lambda path: path.write_bytes(b""), "is empty: give a file with text"),
        (lambda path: path.mkdir(), "has no text in its 0 files"),
        (lambda path: (path.mkdir(), (path / "x.bin").write_bytes(b"\0")), "has no text in its 1 files"),
    ],
)
def test_a_source_without_text_is_named(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "source"
    make(path)
    with pytest.raises(DataError, match=f"{path} {message}"):
        Text(path=str(path), root=str(tmp_path)).prepare_data()
    assert not list(tmp_path.glob("text/*"))


def test_a_text_too_short_for_a_window_is_refused_with_both_numbers(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(as_bytes(TEXT)[:100])
    with pytest.raises(DataError, match=r"the validation part of .*some\.txt has 10 bytes and one window needs 11"):
        text_module(file, tmp_path, val_fraction=0.1, test_fraction=0.2)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="context_length must be at least 1, got 0"):
        Text(context_length=0)
    with pytest.raises(ValueError, match=r"val_fraction must be in \(0, 1\), got 1"):
        Text(val_fraction=1)

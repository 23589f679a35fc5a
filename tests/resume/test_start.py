import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from stepsize.build import plain
from stepsize.errors import ConfigError
from stepsize.resume.start import changes, keep_best, start

Composed = Callable[..., DictConfig]


@pytest.fixture
def saved(composed: Composed) -> Callable[..., Path]:
    """saved(path, step=3, words=...) writes a checkpoint of a run of these words."""

    def write(path: Path, words: tuple[str, ...] = (), step: int = 3, epoch: int = 0, **ours: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {"format": 1, "version": "0.1.0", "config": plain(composed(*words))} | ours
        torch.save({"global_step": step, "epoch": epoch, "stepsize": said}, path)
        return path

    return write


@pytest.fixture
def old(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """The folder of a run that has been."""
    return saved(tmp_path / "old" / "checkpoints" / "last.ckpt").parents[1]


def begin(cfg: DictConfig) -> tuple[Path, int] | None:
    found = start(cfg, Path(cfg.run_dir))
    return None if found is None else (found.path, found.step)


def test_a_run_starts_anew_unless_told(composed: Composed) -> None:
    assert begin(composed()) is None


def test_a_run_goes_on_from_a_folder_and_from_a_file(composed: Composed, old: Path) -> None:
    last = old / "checkpoints" / "last.ckpt"
    assert begin(composed(f"resume={old}")) == begin(composed(f"resume={last}")) == (last, 3)


def test_auto_begins_where_nothing_is_and_goes_on_where_something_is(
    composed: Composed, saved: Callable[..., Path]
) -> None:
    cfg = composed("resume=auto")
    assert begin(cfg) is None
    last = saved(Path(cfg.run_dir) / "checkpoints" / "last.ckpt", step=8)
    assert begin(cfg) == (last, 8)


def test_auto_begins_anew_in_the_folder_of_a_run_that_died_before_it_saved(composed: Composed) -> None:
    cfg = composed("resume=auto")
    (Path(cfg.run_dir) / "tensorboard").mkdir(parents=True)
    assert begin(cfg) is None


def test_auto_without_a_fixed_folder_is_refused(composed: Composed) -> None:
    cfg = composed("resume=auto")
    OmegaConf.update(cfg, "run_dir", "runs/${seed}-${unique:}")
    with pytest.raises(
        ConfigError, match="resume=auto: continues the run in a fixed folder, or begins it; set run_dir="
    ):
        begin(cfg)


def test_latest_goes_on_from_the_runs_own_folder(composed: Composed, saved: Callable[..., Path]) -> None:
    cfg = composed("resume=latest")  # the composed run_dir is that of the latest: tests/test_run_folder.py
    last = saved(Path(cfg.run_dir) / "checkpoints" / "last.ckpt", step=8)
    assert begin(cfg) == (last, 8)


@pytest.mark.parametrize("damage", [b"", b"half", None], ids=["empty", "cut", "absent"])
def test_a_damaged_last_one_is_skipped_with_a_warning(
    composed: Composed, saved: Callable[..., Path], old: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    previous = saved(old / "checkpoints" / "previous.ckpt", step=2)
    last = old / "checkpoints" / "last.ckpt"
    last.unlink()
    if damage is not None:
        last.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert begin(composed(f"resume={old}")) == (previous, 2)
    assert ("last.ckpt is damaged" in caplog.text) == (damage is not None)


@pytest.mark.parametrize("word", ["resume={}", "resume=auto"])
def test_no_whole_one_at_all_is_refused(composed: Composed, tmp_path: Path, word: str) -> None:
    cfg = composed(word.format(tmp_path / "run"))
    folder = Path(cfg.run_dir) / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"^resume=.*(no whole checkpoint in|no checkpoint in .* is whole)"):
        begin(cfg)


def test_a_folder_without_a_checkpoint_is_refused(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no whole checkpoint in .*checkpoints$"):
        begin(composed(f"resume={tmp_path}"))


def test_a_path_that_is_not_there_is_refused(composed: Composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder or checkpoint$"):
        begin(composed(f"resume={tmp_path / 'nowhere'}"))


def test_a_checkpoint_amid_an_accumulation_is_refused(
    composed: Composed, saved: Callable[..., Path], old: Path
) -> None:
    path = saved(old / "checkpoints" / "best.ckpt", is_between_steps=True)
    with pytest.raises(ConfigError, match=r"best\.ckpt was written amid the accumulation .*; go on from last\.ckpt"):
        begin(composed(f"resume={path}"))


@pytest.mark.parametrize(
    "word",
    ["trainer.max_epochs=99", "schedule=linear", "task.label_smoothing=0.1", "logger=none"],
)
def test_what_may_change_is_let_through(composed: Composed, old: Path, word: str) -> None:
    assert begin(composed(f"resume={old}", word)) == (old / "checkpoints" / "last.ckpt", 3)


def test_the_data_may_lie_elsewhere(composed: Composed, saved: Callable[..., Path], tmp_path: Path) -> None:
    words = ("data=text", "model=gpt")
    path = saved(tmp_path / "old" / "checkpoints" / "last.ckpt", words)
    assert begin(composed(f"resume={path}", *words, "data.root=elsewhere")) == (path, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.max_epochs=99"], ["trainer.max_epochs was 30 and is now 99"]),
        (["trainer.gradient_clip_val=1.0"], ["trainer.gradient_clip_val was None and is now 1.0"]),
        (["task.label_smoothing=0.1"], ["task.label_smoothing was 0.0 and is now 0.1"]),
        (["compile=true"], ["compile was False and is now True"]),
        ([], []),
    ],
)
def test_what_changes_is_said(composed: Composed, old: Path, words: list[str], said: list[str]) -> None:
    cfg = composed(f"resume={old}", *words)
    begun = start(cfg, Path(cfg.run_dir))
    assert begun is not None
    assert changes(cfg, begun) == said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lr=0.5", "optimizer.lr was 0.001 and is now 0.5"),
        ("optimizer=momentum", "optimizer._target_ was torch.optim.AdamW and is now torch.optim.SGD"),
        ("model.widths=[32]", r"model.widths was \[64\] and is now \[32\]"),
        ("data.batch_size=8", "data.batch_size was 32 and is now 8"),
        ("param_groups.layer_decay=0.5", "param_groups.layer_decay was 1.0 and is now 0.5"),
        ("seed=1", "data.seed was 0 and is now 1"),
    ],
)
def test_what_the_state_was_made_with_may_not_change(composed: Composed, old: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        begin(composed(f"resume={old}", word))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.max_steps=39"], "40 steps have been taken, more than max_steps=39"),
        (["trainer.max_epochs=2"], "epoch 3 has begun, more than max_epochs=2"),
    ],
)
def test_a_run_cannot_end_before_the_checkpoint(
    composed: Composed, saved: Callable[..., Path], tmp_path: Path, words: list[str], said: str
) -> None:
    path = saved(tmp_path / "old" / "checkpoints" / "last.ckpt", step=40, epoch=2)
    with pytest.raises(ConfigError, match=said):
        begin(composed(f"resume={path}", *words))
    assert begin(composed(f"resume={path}", "trainer.max_epochs=3")) == (path, 40)


@pytest.fixture
def with_best(old: Path, saved: Callable[..., Path]) -> Path:
    """The folder of a run that knows of a best step, 2, with that checkpoint in it."""
    path = old / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"callbacks": {"Objective": {"step": 2}}}, path)
    saved(path.with_name("best.ckpt"), step=2)
    return old


def test_the_best_so_far_is_taken_along_into_another_folder(
    composed: Composed, with_best: Path, tmp_path: Path
) -> None:
    begun = start(composed(f"resume={with_best}"), tmp_path / "new")
    assert begun is not None
    keep_best(begun, tmp_path / "new")
    kept = tmp_path / "new" / "checkpoints" / "best.ckpt"
    assert kept.read_bytes() == (with_best / "checkpoints" / "best.ckpt").read_bytes()


def test_a_best_that_the_checkpoint_did_not_know_of_is_not_taken_along(
    composed: Composed, with_best: Path, saved: Callable[..., Path], tmp_path: Path
) -> None:
    saved(with_best / "checkpoints" / "best.ckpt", step=9)
    begun = start(composed(f"resume={with_best}"), tmp_path / "new")
    assert begun is not None
    keep_best(begun, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_best_that_is_there_is_not_written_over(composed: Composed, with_best: Path) -> None:
    best = with_best / "checkpoints" / "best.ckpt"
    written = os.stat(best).st_mtime_ns
    begun = start(composed(f"resume={with_best}"), with_best)
    assert begun is not None
    keep_best(begun, with_best)
    assert os.stat(best).st_mtime_ns == written

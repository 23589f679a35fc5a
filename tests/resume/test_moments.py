"""What else may come together where a run is cut off, and how much is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cutting import Cut, Run, assert_same, composed

from stepsize.errors import ConfigError
from stepsize.resume.start import start

Made = Callable[..., Run]
WORDS = ("model.dropout=0.3", "optimizer.lr=0.01", "data.crop_padding=1", "trainer.max_epochs=3")
AMID = ("trainer.accumulate_grad_batches=4", "trainer.val_check_interval=2")  # validation after 2 of 4 batches


@pytest.mark.parametrize(
    "cut",
    [
        Cut("step", 0, 0),
        Cut("step", 1, 2),
        Cut("step", 1, 4),
        Cut("validation", 1, 4),
        Cut("validated", 1, 4),
        Cut("epoch", 1, 4),
        Cut("step", 2, 4),
        Cut("validation", 2, 4),
        Cut("validated", 2, 4),
        Cut("epoch", 2, 4),
    ],
    ids=str,
)
def test_a_signal_loses_no_batch_and_neither_does_a_kill_once_it_is_saved(whole: Made, cut_off: Made, cut: Cut) -> None:
    run = cut_off([cut], *WORDS)
    assert run.redone == 0
    assert_same(run, whole(*WORDS))


def test_a_kill_before_the_first_checkpoint_begins_anew(whole: Made, cut_off: Made) -> None:
    run = cut_off([Cut("batch", 0, 3)], *WORDS)
    assert run.redone == 3
    assert_same(run, whole(*WORDS))


def test_a_kill_loses_what_came_after_the_last_validation(whole: Made, cut_off: Made) -> None:
    run = cut_off([Cut("batch", 2, 3)], *WORDS)
    assert run.redone == 3
    assert_same(run, whole(*WORDS))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_kill_loses_less_than_the_steps_between_two_checkpoints(whole: Made, cut_off: Made, batch: int) -> None:
    words = (*WORDS, "callbacks.checkpoint.every_n_steps=3")
    run = cut_off([Cut("batch", 1, batch)], *words)
    assert run.redone <= 3
    assert_same(run, whole(*words))


def test_a_signal_in_a_validation_amid_an_accumulation_waits_for_the_step(whole: Made, cut_off: Made) -> None:
    run = cut_off([Cut("validation", 1, 1)], *WORDS, *AMID)
    assert run.redone == 0
    assert_same(run, whole(*WORDS, *AMID))


def test_a_kill_after_a_validation_amid_an_accumulation_goes_back_to_the_step(whole: Made, cut_off: Made) -> None:
    run = cut_off([Cut("validated", 1, 1)], *WORDS, *AMID)
    assert run.redone == 3  # the last batch of the first epoch, and two of the next
    assert_same(run, whole(*WORDS, *AMID))


def test_a_best_checkpoint_amid_an_accumulation_is_refused_for_going_on(whole: Made, tmp_path: Path) -> None:
    words = (*WORDS, *AMID, "optimizer.lr=0.03", "trainer.max_epochs=1", "trainer.limit_train_batches=3")
    best = whole(*words).folder / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["stepsize"]["is_between_steps"]
    cfg = composed(words, tmp_path / "run", str(best))
    with pytest.raises(ConfigError, match=r"amid the accumulation of a step.*go on from last\.ckpt"):
        start(cfg, tmp_path / "run")


def test_a_run_cut_off_at_its_last_step_after_which_nothing_is_validated_ends_as_one_that_was_not(
    whole: Made, cut_off: Made
) -> None:
    words = (*WORDS, "trainer.val_check_interval=2")
    assert_same(cut_off([Cut("step", 2, 4)], *words), whole(*words))


@pytest.mark.parametrize(
    ("words", "cut"),
    [
        (["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"], Cut("step", 2, 4)),
        (["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"], Cut("epoch", 2, 4)),
        (["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7"], Cut("step", 1, 0)),
        (["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7"], Cut("validation", 1, 1)),
        (["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7"], Cut("batch", 2, 2)),
        (["trainer.val_check_interval=0.4"], Cut("validation", 1, 1)),
        (["trainer.reload_dataloaders_every_n_epochs=1"], Cut("step", 1, 2)),
        (["trainer.num_sanity_val_steps=2"], Cut("step", 1, 2)),
        (["trainer.gradient_clip_val=0.1"], Cut("step", 1, 2)),
    ],
    ids=str,
)
def test_the_same_holds_where_the_trainer_counts_otherwise(
    whole: Made, cut_off: Made, words: list[str], cut: Cut
) -> None:
    assert_same(cut_off([cut], *WORDS, *words), whole(*WORDS, *words))


@pytest.mark.parametrize("cut", [Cut("step", 2, 2), Cut("validation", 2, 4), Cut("batch", 2, 2)], ids=str)
def test_the_best_before_the_cut_stays_the_best(whole: Made, cut_off: Made, cut: Cut) -> None:
    # Worse as lr rises; validation follows 5, 10 and 15 steps.
    words = (*WORDS, "optimizer.lr=0.3", "schedule=constant", "schedule.warmup_steps=15")
    expected = whole(*words)
    assert expected.result["objective"]["step"] <= 10
    assert_same(cut_off([cut], *words), expected)


@pytest.mark.parametrize("moment", ["step", "validation", "validated", "epoch"])
def test_a_run_that_stopped_early_stops_where_it_would_have(whole: Made, cut_off: Made, moment: str) -> None:
    words = (*WORDS, "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=1", "seed=3")
    expected = whole(*words, "trainer.max_epochs=9")
    stopped_at = expected.seen[-1].epoch
    assert stopped_at < 8
    assert_same(cut_off([Cut(moment, stopped_at, 4)], *words, "trainer.max_epochs=9"), expected)


@pytest.mark.parametrize("cut", [Cut("step", 1, 2), Cut("validation", 1, 4), Cut("batch", 2, 2)], ids=str)
def test_a_network_that_draws_its_noise_from_three_libraries_goes_on_with_them(
    whole: Made, cut_off: Made, cut: Cut
) -> None:
    words = (*WORDS, "model._target_=noisy.NoisyMLP")
    assert whole(*words).seen[0].loss != whole(*WORDS).seen[0].loss
    assert_same(cut_off([cut], *words), whole(*words))

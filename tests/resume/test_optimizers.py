"""Every optimizer of the table, and those whose state is more than its own tensors."""

from collections.abc import Callable

import pytest
from cutting import Cut, Run, assert_same

from stepsize.optimizers import OPTIMIZERS

Made = Callable[..., Run]
WORDS = ("model.widths=[24,24]", "model.dropout=0.1", "trainer.max_epochs=3")


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_every_optimizer_goes_on_from_the_middle_of_an_epoch(whole: Made, cut_off: Made, word: str) -> None:
    words = (*WORDS, f"optimizer={word}")
    assert_same(cut_off([Cut("step", 1, 2)], *words), whole(*words))


@pytest.mark.parametrize("base", ["adamw", "nesterov"])
@pytest.mark.parametrize("adaptive", ["true", "false"])
def test_sam_goes_on_with_its_base(whole: Made, cut_off: Made, base: str, adaptive: str) -> None:
    words = (*WORDS, "optimizer=sam", f"optimizer.base={base}", f"optimizer.adaptive={adaptive}")
    assert_same(cut_off([Cut("step", 1, 2)], *words), whole(*words))


@pytest.mark.parametrize("word", ["schedule_free_adamw", "schedule_free_sgd"])
@pytest.mark.parametrize(
    "cut",
    [Cut("step", 1, 2), Cut("step", 1, 4), Cut("validation", 1, 4), Cut("validated", 1, 4), Cut("step", 2, 4)],
    ids=str,
)
def test_averaged_weights_go_on_with_those_trained_and_with_the_statistics_of_batch_norm(
    whole: Made, cut_off: Made, word: str, cut: Cut
) -> None:
    data = ("data=mnist1d", "data.max_shift=2", "model=convnet", "model.widths=[4,8]", "trainer.max_epochs=3")
    words = (*data, f"optimizer={word}", "schedule=constant")
    assert_same(cut_off([cut], *words), whole(*words))

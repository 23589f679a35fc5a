"""The same on a GPU, with deterministic=true: `pytest -m gpu` where there is one."""

from collections.abc import Callable

import pytest
import torch
from cutting import Cut, Run, assert_same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
Made = Callable[..., Run]
WORDS = ("trainer=gpu", "trainer.deterministic=true", "trainer.max_epochs=3", "model.dropout=0.2")
CUTS = pytest.mark.parametrize(
    "cut", [Cut("step", 1, 2), Cut("validation", 1, 4), Cut("validated", 1, 4), Cut("batch", 2, 2)], ids=str
)


@CUTS
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_pictures(whole: Made, cut_off: Made, precision: str, cut: Cut) -> None:
    words = (*WORDS, "data.crop_padding=1", "model=convnet", "model.widths=[8,16]", f"trainer.precision={precision}")
    assert_same(cut_off([cut], *words), whole(*words))


@CUTS
def test_text(whole: Made, cut_off: Made, cut: Cut) -> None:
    network = ("model=gpt", "model.num_layers=2", "model.num_heads=2", "model.width=32")
    words = (*WORDS, "data=text", "data.context_length=64", *network)
    assert_same(cut_off([cut], *words), whole(*words))


@pytest.mark.parametrize("word", ["muon", "soap", "perturbed_sgd", "schedule_free_adamw", "sam"])
def test_an_optimizer_whose_step_is_compiled_or_draws(whole: Made, cut_off: Made, word: str) -> None:
    words = (*WORDS, "model.widths=[32,32]", f"optimizer={word}")
    assert_same(cut_off([Cut("step", 1, 2)], *words), whole(*words))

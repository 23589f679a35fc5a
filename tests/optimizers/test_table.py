"""The table of optimizers: each word has its YAML, builds, and goes downhill."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from stepsize import build
from stepsize.config import CONF
from stepsize.optimizers import OPTIMIZERS
from stepsize.signature import load

YAMLS = {path.stem for path in (CONF / "optimizer").glob("*.yaml")}
STEPS = 60


def test_every_word_has_a_yaml_and_every_yaml_a_word() -> None:
    assert YAMLS - {"custom"} == set(OPTIMIZERS)


@pytest.mark.parametrize("word", sorted(OPTIMIZERS))
def test_a_yaml_builds_the_class_of_its_word(composed: Callable[..., DictConfig], word: str) -> None:
    assert build.optimizer(composed(f"optimizer={word}"), None).func is load(OPTIMIZERS[word])


@pytest.mark.parametrize("word", sorted(OPTIMIZERS))
def test_every_optimizer_reduces_a_quadratic(composed: Callable[..., DictConfig], word: str) -> None:
    made = build.optimizer(composed(f"optimizer={word}"), torch.device("cpu"))
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.randn(4, 3))
    vector = nn.Parameter(torch.randn(3))
    optimizer = made([matrix, vector])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = matrix.square().sum() / 2 + vector.square().sum() / 2
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(STEPS)]
    assert min(losses) == min(losses[STEPS // 2 :]) < losses[0]

"""Where torch has a fused step: found by taking one."""

from typing import Any

import pytest
import torch
from torch.optim import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from stepsize.optimizers.fused import has_fused_step

CPU = torch.device("cpu")


class FusedInName(SGD):
    """Accepts the argument and fails when it steps."""

    def __init__(self, params: Any, *, fused: bool | None = None) -> None:
        super().__init__(params)

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


class Broken(SGD):
    """Fails for a reason of its own."""

    def __init__(self, params: Any, *, fused: bool | None = None) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW, Adagrad])
def test_these_have_a_fused_step_on_a_cpu(optimizer: type[Optimizer]) -> None:
    assert has_fused_step(optimizer, CPU)


@pytest.mark.parametrize("optimizer", [RMSprop, NAdam, Adadelta, LBFGS])
def test_these_have_no_fused_step(optimizer: type[Optimizer]) -> None:
    assert not has_fused_step(optimizer, CPU)


def test_a_device_that_fuses_nothing_is_found_out() -> None:
    assert not has_fused_step(Adam, torch.device("meta"))


def test_an_argument_that_does_not_work_is_no_fused_step() -> None:
    assert not has_fused_step(FusedInName, CPU)


def test_a_defect_of_an_optimizer_is_not_taken_for_a_missing_step() -> None:
    with pytest.raises(ZeroDivisionError):
        has_fused_step(Broken, CPU)

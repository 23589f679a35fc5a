import pytest
import torch
from torch.optim import SGD, Optimizer


@pytest.fixture
def unit_sgd() -> Optimizer:
    """An optimizer of learning rate 1: what torch's scheduler makes of it is its multiplier."""
    return SGD([torch.zeros(1)], lr=1.0)

"""A network for tests that draws random numbers as a user's own might: model._target_=noisy.NoisyMLP."""

import random

import numpy as np
import torch
from torch import Tensor

from stepsize.models.mlp import MLP


class NoisyMLP(MLP):
    """Moves its inputs, in training and in validation, by what Python, NumPy and torch draw."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values + random.gauss(0, 0.1) + np.random.normal() / 10 + torch.randn(values.shape) / 10)

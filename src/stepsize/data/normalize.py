"""Pixels to network inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalize:
    """Turn bytes into float32 with mean 0 and standard deviation 1 in each channel: (x / 255 - mean) / std.

    Args:
        mean: of each channel, in units of the largest pixel value 255.
        std: of each channel, in the same unit.
        device: of the images to come.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        channel_std = torch.tensor(std).view(-1, 1, 1)
        self.scale = (1 / (255 * channel_std)).to(device)
        self.shift = (-torch.tensor(mean).view(-1, 1, 1) / channel_std).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise images of shape (B, C, H, W)."""
        return x.float().mul_(self.scale).add_(self.shift)

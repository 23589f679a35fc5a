"""Whether an optimizer of torch's has a fused step on a device."""

import inspect

import torch
from torch import nn
from torch.optim import Optimizer


def has_fused_step(optimizer: type[Optimizer], device: torch.device) -> bool:
    """True if `optimizer(..., fused=True)` takes a step there: found by taking one, since torch has no list to ask.

    Args:
        optimizer: class of the optimizer.
        device: where its parameters will lie.
    """
    if "fused" not in inspect.signature(optimizer).parameters:
        return False
    parameter = nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer([parameter], fused=True).step()  # type: ignore[call-arg]
    except (RuntimeError, NotImplementedError):
        return False
    return True

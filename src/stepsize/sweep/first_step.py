"""Imported by the fork server of the recipe: torch looks for its kernels as they are first used, which takes up to
fifteen milliseconds; used once in the server, they are known in every trial.

A backward pass would start autograd's threads, and more than one thread OpenMP's: neither survive the fork.
"""

import torch
from torch import nn


def rehearse() -> None:
    """A step of a small network on one thread, but for its backward pass; no number is drawn from the global stream."""
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    with torch.no_grad():
        nn.functional.cross_entropy(network(torch.randn(64, 64)), torch.zeros(64, dtype=torch.long))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


threads = torch.get_num_threads()
torch.set_num_threads(1)
with torch.random.fork_rng(devices=[]):
    rehearse()
torch.set_num_threads(threads)

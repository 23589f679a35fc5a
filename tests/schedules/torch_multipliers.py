from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def torch_multipliers(optimizer: Optimizer, scheduler: LRScheduler, num_steps: int) -> list[float]:
    """The learning rate that each of the first `num_steps` updates is taken with."""
    taken = []
    for _ in range(num_steps):
        taken.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return taken

"""Stepsize: a training recipe on PyTorch Lightning."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from torch import nn

__version__ = "0.1.0"


def load(path: "str | PathLike[str]", *, device: "torch.device | str" = "cpu") -> "nn.Module":
    """The network that a run has trained, in eval mode, by itself: no data, no trainer, no working directory.

    It takes what the run's data module gives in a batch, that is x of shape (B, *input_shape), normalised as the
    module's docstring says; docs/checkpoints.md shows how for each. It has the dtype that it was trained in, float32
    unless `trainer.precision` ended in "-true". Nothing that a file says is run: a file of a stranger's may be loaded.

    Args:
        path: a checkpoint; or a run's folder, of which the best is taken, or the last where there is no best.
        device: where the network is to lie.

    Raises:
        ConfigError: there is no checkpoint; it is damaged, none of this recipe, or of a newer version; or it names a
            model or data module that is not in the tables.
    """
    from stepsize.trained import network  # here: `import stepsize` does not wait for torch and Lightning

    return network(path, device)

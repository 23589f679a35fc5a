"""A small residual convolutional network for sequences and images."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolution, batch normalisation and ReLU, in stages that each halve the resolution, with residual blocks.

    With f(x) = relu(norm(conv(x))), every kernel 3 wide:

        stem     f with stride `stem_stride`
        stage i  f with stride 2 (not in the first stage, which the stem leads into), then `num_blocks` times x + f(x)
        head     mean over all positions, dropout, one linear layer

    The residual block that adds after the ReLU is that of D. Page, "How to Train Your ResNet", 2018,
    https://github.com/davidcpage/cifar10-fast, with one convolution where he has two. Batch normalisation: S. Ioffe and
    C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015,
    https://arxiv.org/abs/1502.03167. Residual networks: K. He et al., "Deep Residual Learning for Image Recognition",
    2015, https://arxiv.org/abs/1512.03385.

    Batch normalisation needs more than one number a channel: where the last stage is one position wide, a training
    batch must hold at least two examples.

    Args:
        input_shape: (channels, length) of a sequence or (channels, height, width) of an image, without the batch.
        num_classes: number of logits, at least 1.
        widths: channels of each stage, from the first to the last; every further stage halves the resolution.
        num_blocks: residual blocks in each stage, at least 1.
        stem_stride: 1 keeps the input's resolution in the first stage; 2 halves it, for a fourth of the work on an
            image and half on a sequence.
        dropout: probability in [0, 1) that a pooled feature is dropped in training.

    Raises:
        ValueError: the input is neither a sequence nor an image, or too small to be halved so often; a size is less
            than 1; `stem_stride` is neither 1 nor 2; `dropout` is outside [0, 1).
    """

    accepts: ClassVar[Literal["values", "tokens"]] = "values"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        num_blocks: int = 1,
        stem_stride: int = 2,
        dropout: float = 0.0,
    ) -> None:
        if len(input_shape) not in (2, 3) or min(input_shape) < 1:
            raise ValueError(
                "input_shape must be (channels, length) or (channels, height, width), each at least 1, "
                f"got {tuple(input_shape)}"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be one or more widths of at least 1, got {list(widths)}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, got {stem_stride}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        channels, *sides = input_shape
        smallest = stem_stride * 2 ** (len(widths) - 1)
        if min(sides) < smallest:
            raise ValueError(
                f"input_shape {tuple(input_shape)} is too small: {len(widths)} widths with stem_stride {stem_stride} "
                f"need every side to be at least {smallest}; give fewer widths"
            )

        super().__init__()
        dimensions = len(sides)
        self.stem = _conv_norm_relu(channels, widths[0], dimensions, stride=stem_stride)
        self.stages = nn.Sequential()
        for index, width in enumerate(widths):
            entry = [_conv_norm_relu(widths[index - 1], width, dimensions, stride=2)] if index else []
            blocks = [_Residual(_conv_norm_relu(width, width, dimensions)) for _ in range(num_blocks)]
            self.stages.append(nn.Sequential(*entry, *blocks))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits, (B, num_classes), of values (B, *input_shape)."""
        features: Tensor = self.stages(self.stem(values))
        logits: Tensor = self.head(self.dropout(features.flatten(2).mean(2)))
        return logits


class _Residual(nn.Module):
    """Adds what the block computes to what it was given."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block(x)
        return out


def _conv_norm_relu(channels: int, width: int, dimensions: int, *, stride: int = 1) -> nn.Sequential:
    # Without a bias: the normalisation that follows would subtract it.
    if dimensions == 1:
        return nn.Sequential(
            nn.Conv1d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
        )
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )

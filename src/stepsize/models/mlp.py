"""A multilayer perceptron."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, on inputs of any shape, flattened.

    With h_0 the flattened input and W_l, b_l the l-th layer:

        h_l    = dropout(relu(W_l h_{l-1} + b_l))
        logits = W h_L + b

    Args:
        input_shape: one example's shape, without the batch.
        num_classes: number of logits, at least 1.
        widths: units of each hidden layer, from the first to the last; empty makes it logistic regression.
        dropout: probability in [0, 1) that a hidden unit is dropped in training.

    Raises:
        ValueError: a size is less than 1, or `dropout` is outside [0, 1).
    """

    accepts: ClassVar[Literal["values", "tokens"]] = "values"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        widths: Sequence[int] = (64,),
        dropout: float = 0.0,
    ) -> None:
        if not input_shape or min(input_shape) < 1:
            raise ValueError(f"input_shape must be positive sizes, got {tuple(input_shape)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if any(width < 1 for width in widths):
            raise ValueError(f"widths must all be at least 1, got {list(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")

        super().__init__()
        sizes = [math.prod(input_shape), *widths]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, width), nn.ReLU(inplace=True), nn.Dropout(dropout))
                for before, width in zip(sizes, widths, strict=False)
            )
        )
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits, (B, num_classes), of values (B, *input_shape)."""
        logits: Tensor = self.head(self.layers(values.flatten(1)))
        return logits

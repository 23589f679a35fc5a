"""What is measured: each metric as a function of a pass's totals, and which direction is better."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A number made of totals over all examples (or tokens) of a pass.

    Args:
        of: (summed loss in nats, correct, count) -> value.
        better: "min" or "max".
    """

    of: Callable[[float, float, float], float]
    better: Literal["min", "max"]


METRICS: dict[str, Metric] = {
    "loss": Metric(lambda loss, correct, count: loss / count, "min"),
    "accuracy": Metric(lambda loss, correct, count: correct / count, "max"),
    # exp overflows above 709
    "perplexity": Metric(lambda loss, correct, count: math.exp(min(loss / count, 700.0)), "min"),
    "bits_per_byte": Metric(lambda loss, correct, count: loss / count / math.log(2), "min"),
}


def better(tag: str) -> str:
    """Which direction is better for a tag such as "val/accuracy"; "min" where nothing of that name is measured."""
    metric = METRICS.get(tag.rpartition("/")[2])
    return metric.better if metric is not None else "min"

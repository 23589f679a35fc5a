import math

import pytest

from stepsize.metrics import METRICS, better


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", 3.0), ("accuracy", 0.25), ("perplexity", math.exp(3)), ("bits_per_byte", 3 / math.log(2))],
)
def test_a_metric_follows_from_the_totals(name: str, value: float) -> None:
    assert METRICS[name].of(12.0, 1.0, 4.0) == pytest.approx(value)


def test_a_perplexity_that_no_double_holds_is_no_error() -> None:
    assert math.isfinite(METRICS["perplexity"].of(1e9, 0.0, 1.0))


@pytest.mark.parametrize(
    ("tag", "direction"), [("val/accuracy", "max"), ("val/loss", "min"), ("test/perplexity", "min"), ("unknown", "min")]
)
def test_the_better_direction_is_that_of_the_metric(tag: str, direction: str) -> None:
    assert better(tag) == direction

import pytest
import torch

from stepsize.models.mlp import MLP


def test_equals_its_equations():
    torch.manual_seed(0)
    model = MLP((2, 3), 4, widths=[5, 7])
    values = torch.randn(8, 2, 3)
    first, second = model.layers[0][0], model.layers[1][0]
    h = values.reshape(8, 6)
    h = (h @ first.weight.T + first.bias).clamp(min=0)
    h = (h @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(model(values), h @ model.head.weight.T + model.head.bias)


def test_default_on_digits_is_64_64_10():
    shapes = [tuple(parameter.shape) for parameter in MLP((1, 8, 8), 10).parameters()]
    assert shapes == [(64, 64), (64,), (10, 64), (10,)]


def test_without_widths_is_linear():
    model = MLP((4,), 3, widths=[])
    a, b = torch.randn(2, 5, 4)
    torch.testing.assert_close(model(a + b) + model(torch.zeros(5, 4)), model(a) + model(b))


def test_refuses_an_empty_layer():
    with pytest.raises(ValueError, match=r"widths must all be at least 1, got \[64, 0\]"):
        MLP((4,), 3, widths=(64, 0))

import pytest
import torch
from torch import nn

from stepsize.models.convnet import ConvNet


def test_equals_its_equations():
    torch.manual_seed(0)
    model = ConvNet((1, 8), 3, widths=[4, 6], num_blocks=2)
    values = torch.randn(5, 1, 8)

    def f(block, x, stride):
        x = torch.nn.functional.conv1d(x, block[0].weight, stride=stride, padding=1)
        return ((x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), False, keepdim=True) + 1e-5).sqrt()).clamp(min=0)

    (first, second), (entry, third, fourth) = model.stages
    x = f(model.stem, values, 2)
    x = x + f(first.block, x, 1)
    x = x + f(second.block, x, 1)
    x = f(entry, x, 2)
    x = x + f(third.block, x, 1)
    x = x + f(fourth.block, x, 1)
    expected = x.mean(2) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(values), expected)


@pytest.mark.parametrize(
    ("shape", "stem_stride", "sides"),
    [
        ((1, 40), 2, [(20,), (10,), (5,)]),
        ((1, 40), 1, [(40,), (20,), (10,)]),
        ((1, 28, 28), 2, [(14, 14), (7, 7), (4, 4)]),
        ((3, 32, 16), 1, [(32, 16), (16, 8), (8, 4)]),
    ],
)
def test_every_further_stage_halves_the_resolution(shape, stem_stride, sides):
    model = ConvNet(shape, 10, stem_stride=stem_stride)
    seen = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[2:])))
    model(torch.randn(2, *shape))
    assert seen == sides


def test_has_one_stage_a_width():
    model = ConvNet((3, 32, 32), 10, widths=[8, 16, 24, 40])
    assert [stage[-1].block[0].out_channels for stage in model.stages] == [8, 16, 24, 40]


@pytest.mark.parametrize("shape", [(1, 40), (1, 28, 28)])
def test_no_convolution_has_a_bias_that_its_norm_would_undo(shape):
    convolutions = [m for m in ConvNet(shape, 10).modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))]
    assert len(convolutions) == 6
    assert all(convolution.bias is None for convolution in convolutions)


def test_channels_last_computes_the_same():
    torch.manual_seed(0)
    model = ConvNet((3, 32, 32), 10).double()
    values = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = model(values)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(values.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("shape", [(64,), (1, 2, 8, 8)])
def test_refuses_what_is_neither_sequence_nor_image(shape):
    with pytest.raises(ValueError, match="input_shape must be"):
        ConvNet(shape, 10)


@pytest.mark.parametrize(
    ("shape", "stem_stride", "needed"), [((1, 7), 2, 8), ((1, 28, 7), 2, 8), ((1, 3, 28), 1, 4), ((28, 28, 1), 2, 8)]
)
def test_refuses_an_input_too_small_to_halve(shape, stem_stride, needed):
    with pytest.raises(ValueError, match=f"is too small: 3 widths .* at least {needed}; give fewer widths"):
        ConvNet(shape, 10, stem_stride=stem_stride)


@pytest.mark.parametrize("shape", [(1, 8), (1, 8, 8)])
def test_the_smallest_input_accepted_trains(shape):
    model = ConvNet(shape, 10)
    model(torch.randn(2, *shape)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": []}, r"widths must be one or more widths of at least 1, got \[\]"),
        ({"widths": (8, 0)}, r"widths must be one or more widths of at least 1, got \[8, 0\]"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"stem_stride": 3}, "stem_stride must be 1 or 2, got 3"),
    ],
)
def test_refuses_bad_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        ConvNet((1, 28, 28), 10, **wrong)

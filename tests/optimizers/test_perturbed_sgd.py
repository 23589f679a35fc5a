"""Perturbed SGD: SGD, its noise, and the saddle points it leaves."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from stepsize import build
from stepsize.optimizers.compilation import CompiledRule
from stepsize.optimizers.counted_normal import BLOCK, LARGE
from stepsize.optimizers.perturbed_sgd import PerturbedSGD

CPU = torch.device("cpu")
STEPS = 12
LRS = [0.1 + 0.05 * math.sin(t) for t in range(STEPS)]
SHAPES = [(7, 5), (3, 2, 3, 3), (1100,), (4,), (2,), (3,)]
SIZE = sum(math.prod(s) for s in SHAPES)
NOISES = ["isotropic", "ball"]


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=dtype, generator=generator) for s in SHAPES]


def zeros() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in SHAPES]


def trajectory(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], size: float = 1.0
) -> list[list[Tensor]]:
    """The parameters after each of twelve steps, with gradients `size` in size."""
    found = []
    for t, lr in enumerate(LRS):
        for p, g in zip(parameters, tensors(100 + t, parameters[0].dtype), strict=True):
            p.grad = size * g
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        found.append([p.detach().clone() for p in parameters])
    return found


def noise(**keywords: Any) -> list[list[Tensor]]:
    """How each of twelve steps moves parameters whose gradient is zero."""
    parameters = zeros()
    points = [
        [p.detach().clone() for p in parameters],
        *trajectory(PerturbedSGD(parameters, **keywords), parameters, 0),
    ]
    return [[b - a for a, b in zip(x, y, strict=True)] for x, y in pairwise(points)]


def norm(vector: list[Tensor]) -> float:
    return math.sqrt(sum(float(v.square().sum()) for v in vector))


def at_the_saddle(make: Any, steps: int = 400) -> tuple[float, float]:
    """Where steps end that begin at x = 1, y = 0 of x² - y² + y⁴: its saddle point is 0, 0, its minima 0, ±1/√2."""
    x, y = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))
    optimizer = make([x, y])
    for _ in range(steps):
        optimizer.zero_grad()
        (x**2 - y**2 + y**4).backward()
        optimizer.step()
    return x.item(), y.item()


def test_sgd_never_leaves_a_saddle_point() -> None:
    assert at_the_saddle(lambda params: torch.optim.SGD(params, lr=0.1)) == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seed", range(4))
def test_the_noise_leaves_a_saddle_point_and_reaches_a_minimum(kind: Any, seed: int) -> None:
    x, y = at_the_saddle(lambda params: PerturbedSGD(params, lr=0.1, noise=kind, seed=seed))
    assert (x, abs(y)) == pytest.approx((0, math.sqrt(0.5)), abs=0.02)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_radius_0_it_is_sgd_bit_for_bit(kind: Any, dtype: torch.dtype) -> None:
    parameters, others = ([nn.Parameter(x) for x in tensors(0, dtype)] for _ in range(2))
    ours = PerturbedSGD(parameters, weight_decay=0.1, noise=kind, radius=0.0, threshold=1e9)
    theirs = torch.optim.SGD(others, weight_decay=0.1, foreach=False)
    found, expected = trajectory(ours, parameters)[-1], trajectory(theirs, others)[-1]
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(SHAPES)


def z(seed: int, t: int) -> list[Tensor]:
    """The normal numbers of step t, as the docstrings say: pcg3d of a key and a number, Box and Muller, in float64."""
    draw = random.Random(f"{seed} {t}")
    y, k = (np.uint32((2 * draw.getrandbits(31) + 1 - 2**31) % 2**32) for _ in range(2))
    number = np.arange(SIZE, dtype=np.uint32)
    x, y, k = (number & ~np.uint32(64)) * np.uint32(1664525) + np.uint32(1013904223), y + 0 * number, k + 0 * number
    for mixes in (True, False):
        x = x + y * k
        y = y + k * x
        k = k + x * y
        x, y, k = (w ^ (w >> np.uint32(16)) if mixes else w for w in (x, y, k))
    length = np.sqrt(-2 * np.log(((x & np.uint32(0x7FFFFF00)) | np.uint32(128)) / 2**31))
    angle = np.pi * ((y >> np.uint32(9)) / 2**23 - 0.5)
    sign = np.where(x >> np.uint32(31), -1, 1)
    drawn = length * np.where(number & np.uint32(64), sign * np.cos(angle), np.sin(angle))
    parts = torch.from_numpy(drawn).split([math.prod(s) for s in SHAPES])
    return [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def test_twelve_steps_with_isotropic_noise_equal_the_papers_algorithm() -> None:
    parameters = [nn.Parameter(x) for x in tensors(0)]
    found = trajectory(PerturbedSGD(parameters, weight_decay=0.1, radius=0.5, seed=3), parameters)[-1]
    x = tensors(0)
    for t, eta in enumerate(LRS):
        for i, (g, drawn) in enumerate(zip(tensors(100 + t), z(3, t), strict=True)):
            xi = -0.5 / math.sqrt(SIZE) * drawn  # of a normal number the sign is free
            x[i] = x[i] - eta * (g + 0.1 * x[i] + xi)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-13)


def test_twelve_steps_with_noise_in_a_ball_equal_the_papers_algorithm() -> None:
    g_thres, t_thres = sorted(norm(tensors(100 + t)) for t in range(STEPS))[4], 2
    parameters = [nn.Parameter(torch.zeros_like(x)) for x in tensors(0)]
    keywords: dict[str, Any] = {"noise": "ball", "radius": 0.5, "interval_steps": t_thres}
    found = trajectory(PerturbedSGD(parameters, threshold=g_thres, **keywords), parameters)[-1]
    draws = noise(threshold=1.0, **keywords | {"interval_steps": 0})
    x, t_noise, perturbed = [torch.zeros_like(y) for y in tensors(0)], -t_thres - 1, []
    for t, eta in enumerate(LRS):
        g, due = tensors(100 + t), t - t_noise > t_thres
        small = norm(g) <= g_thres
        perturbed.append((due, small))
        xi = draws[t] if due and small else [torch.zeros_like(y) for y in x]
        t_noise = t if due and small else t_noise
        x = [a - eta * b + c for a, b, c in zip(x, g, xi, strict=True)]
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-13)
    assert {(True, True), (True, False), (False, True)} <= {*perturbed}


def test_isotropic_noise_in_the_gradient_has_the_radius_for_its_norm() -> None:
    norms = [norm(step) / lr for step, lr in zip(noise(radius=0.5), LRS, strict=True)]
    # Of 1198 coordinates: the standard deviation of a norm is r/√(2d) = 0.01.
    assert norms == pytest.approx([0.5] * STEPS, abs=0.05)


def test_noise_in_a_ball_is_uniform_in_it() -> None:
    draws = []
    for seed in range(2000):
        p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        p.grad = torch.zeros_like(p)
        PerturbedSGD([p], noise="ball", radius=0.5, seed=seed).step()
        draws.append(p.detach() / 0.5)
    points = torch.stack(draws)
    areas = points.square().sum(1).sort().values  # of the disc within each point, in shares of the whole: uniform
    assert areas[-1] <= 1
    # Kolmogorov's distance exceeds 1.63/√n in one of a hundred samples, and so it does for each quadrant's share.
    assert (areas - torch.linspace(0, 1, 2000, dtype=torch.float64)).abs().max() < 1.63 / math.sqrt(2000)
    quadrants = torch.bincount(2 * (points[:, 0] > 0) + (points[:, 1] > 0), minlength=4) / 2000
    assert (quadrants - 0.25).abs().max() < 0.04


def test_a_perturbation_waits_for_the_interval_to_pass() -> None:
    steps = noise(noise="ball", radius=0.5, interval_steps=3)
    assert [t for t, step in enumerate(steps) if norm(step) > 0] == [0, 4, 8]


def test_no_noise_in_a_ball_is_added_while_the_gradient_is_large() -> None:
    parameters, others = ([nn.Parameter(x) for x in tensors(0)] for _ in range(2))
    ours = PerturbedSGD(parameters, noise="ball", radius=0.5, threshold=1.0, interval_steps=0)
    found = trajectory(ours, parameters)[-1]
    expected = trajectory(torch.optim.SGD(others, lr=0.1, foreach=False), others)[-1]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_gradient_is_small_where_weight_decay_cancels_it() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    p.grad = torch.full_like(p, -0.5)
    PerturbedSGD([p], weight_decay=0.5, noise="ball", radius=0.1).step()
    assert 0 < (p - 1).norm() <= 0.1


@pytest.mark.parametrize("kind", NOISES)
def test_the_seed_decides_the_noise_and_every_step_has_its_own(kind: Any) -> None:
    keywords = {"noise": kind, "interval_steps": 0}
    first, again, other = (torch.cat([v.flatten() for s in noise(seed=n, **keywords) for v in s]) for n in (1, 1, 2))
    assert torch.equal(first, again)
    assert len(first.unique()) == len(first) == STEPS * SIZE
    assert not torch.isin(first, other).any()


@pytest.mark.parametrize("kind", NOISES)
def test_a_resumed_run_draws_the_noise_that_an_uninterrupted_one_does(kind: Any) -> None:
    keywords: dict[str, Any] = {"noise": kind, "threshold": 1e9, "interval_steps": 4}
    parameters, others = zeros(), zeros()
    whole, first = PerturbedSGD(parameters, seed=3, **keywords), PerturbedSGD(others, seed=3, **keywords)
    trajectory(whole, parameters)
    trajectory(first, others)
    second = PerturbedSGD(others, **keywords)
    second.load_state_dict(first.state_dict())
    expected, found = trajectory(whole, parameters)[-1], trajectory(second, others)[-1]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of the compiler's own
@pytest.mark.parametrize("kind", NOISES)
def test_compiled_large_and_small_parameters_get_the_noise_they_get_eagerly(kind: Any) -> None:
    assert not CompiledRule.failed  # or both would be eager
    sizes = [LARGE + 1, 300, 3 * LARGE, LARGE + BLOCK, 1, 7, 9]  # with and without a rest; the small ones are packed
    moved = []
    for compiled in (False, True):
        groups = [{"params": [nn.Parameter(torch.zeros(n)) for n in sizes]} for _ in range(2)]
        optimizer = PerturbedSGD(groups, noise=kind, radius=100.0, threshold=1e9, compiled=compiled)
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        optimizer.step()
        moved.append(torch.cat([p.detach() for group in optimizer.param_groups for p in group["params"]]))
    eager, compiled_ = moved
    deviation = 0.1 * 100 / math.sqrt(len(eager))
    torch.testing.assert_close(compiled_, eager, rtol=2e-6, atol=4e-5 * deviation)


def test_the_default_device_decides_about_nothing() -> None:
    moved = []
    for device in ("cpu", "meta"):
        p = nn.Parameter(torch.zeros(LARGE + BLOCK))
        p.grad = torch.zeros_like(p)
        with torch.device(device):
            PerturbedSGD([p]).step()
        moved.append(p.detach())
    assert moved[0].any()
    assert torch.equal(*moved)


def test_no_two_coordinates_get_the_same_draw() -> None:
    sizes = [LARGE + 1, 300, 3 * LARGE, LARGE + BLOCK, 1, 7, 9]  # the small ones of a group are packed
    groups = [{"params": [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes]} for _ in range(2)]
    optimizer = PerturbedSGD(groups)
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    for p in everything:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = torch.cat([p.detach() for p in everything])
    assert len(moved.unique()) == len(moved)


@pytest.mark.parametrize("kind", NOISES)
def test_a_group_with_lr_0_stays(kind: Any) -> None:
    free, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    free.grad, frozen.grad = torch.zeros(3), torch.zeros(3)
    PerturbedSGD([{"params": [free]}, {"params": [frozen], "lr": 0.0}], noise=kind).step()
    assert (free != 0).all()
    assert (frozen == 0).all()


@pytest.mark.parametrize("name", ["lr", "weight_decay", "radius", "threshold", "interval_steps", "seed"])
@pytest.mark.parametrize("value", [-1, math.nan])
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in .*, got "):
        PerturbedSGD([nn.Parameter(torch.ones(2))], **{name: value})  # type: ignore[arg-type]


def test_an_unknown_noise_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"noise: there is no bal; did you mean ball\? There are: ball, isotropic"):
        PerturbedSGD([nn.Parameter(torch.ones(2))], noise="bal")  # type: ignore[arg-type]


def test_the_seed_of_a_run_is_that_of_its_noise(composed: Callable[..., DictConfig]) -> None:
    assert build.optimizer(composed("optimizer=perturbed_sgd", "seed=3"), CPU).keywords["seed"] == 3
    inside = composed("optimizer=sam", "optimizer.base=perturbed_sgd", "seed=3")
    assert build.optimizer(inside, CPU).keywords["options"]["seed"] == 3

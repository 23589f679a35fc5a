"""Prodigy against its paper, and what its estimate is."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepsize.optimizers.prodigy import Prodigy

STEPS = 12
LRS = [1.0 + 0.5 * math.sin(t) for t in range(STEPS)]
SHAPES = [(7, 5), (3, 2, 3, 3), (11,), (4,), (2,), (3,)]


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in SHAPES]


def gradients(k: int) -> list[Tensor]:
    """Random, about a mean that lets the estimate grow."""
    return [g + 0.5 for g in tensors(100 + k)]


def moved(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], lrs: list[float] = LRS) -> list[Tensor]:
    for k, lr in enumerate(lrs):
        for p, g in zip(parameters, gradients(k), strict=True):
            p.grad = g
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
        optimizer.step()
    return [p.detach() for p in parameters]


def reference(scales: list[float], decays: list[float]) -> tuple[list[Tensor], float]:
    """Algorithm 4 of the paper with β₁ = 0.8, β₂ = 0.9, ε = 0.01, d_0 = 0.1, and x and d at its end."""
    beta1, beta2, eps, d, r = 0.8, 0.9, 0.01, 0.1, 0.0
    x0 = tensors(0)
    x = [t.clone() for t in x0]
    m, v, s = ([torch.zeros_like(t) for t in x0] for _ in range(3))
    for k, lr in enumerate(LRS):
        g = gradients(k)
        r = math.sqrt(beta2) * r
        for i in range(len(x)):
            gamma = lr * scales[i]
            r += (1 - math.sqrt(beta2)) * gamma * d**2 * float((g[i] * (x0[i] - x[i])).sum())
            s[i] = math.sqrt(beta2) * s[i] + (1 - math.sqrt(beta2)) * gamma * d**2 * g[i]
            m[i] = beta1 * m[i] + (1 - beta1) * d * g[i]
            v[i] = beta2 * v[i] + (1 - beta2) * d**2 * g[i] ** 2
            x[i] = x[i] - gamma * d * (m[i] / (v[i].sqrt() + d * eps) + decays[i] * x[i])
        d = max(d, r / sum(float(t.abs().sum()) for t in s))
    return x, d


def convex(x: Tensor) -> Tensor:
    """Curvatures over three decades, and its minimum, 0, where all coordinates are 1."""
    return (torch.logspace(-2, 1, x.numel(), dtype=x.dtype) * (x - 1).square()).sum()


def test_twelve_steps_equal_the_papers_algorithm() -> None:
    parameters = [nn.Parameter(x) for x in tensors(0)]
    optimizer = Prodigy(parameters, betas=(0.8, 0.9), eps=0.01, weight_decay=0.05, d0=0.1)
    found = moved(optimizer, parameters)
    expected, d = reference([1.0] * 6, [0.05] * 6)
    # Sums over coordinates are taken in another order: a few units in the last place of d at each step.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert optimizer.param_groups[0]["d"] == pytest.approx(d, rel=1e-12)
    assert d > 0.1


def test_groups_of_different_lr_and_decay_have_one_d() -> None:
    parameters = [nn.Parameter(x) for x in tensors(0)]
    groups: list[dict[str, Any]] = [
        {"params": parameters[:2], "scale": 1.0, "weight_decay": 0.05},
        {"params": parameters[2:], "scale": 0.25, "weight_decay": 0.0},
    ]
    optimizer = Prodigy(groups, betas=(0.8, 0.9), eps=0.01, d0=0.1)
    found = moved(optimizer, parameters)
    expected, d = reference([1.0] * 2 + [0.25] * 4, [0.05] * 2 + [0.0] * 4)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert [group["d"] for group in optimizer.param_groups] == pytest.approx([d, d], rel=1e-12)


def test_with_d_held_it_is_adamw_without_bias_correction() -> None:
    parameters = [nn.Parameter(x) for x in tensors(0)]
    found = moved(Prodigy(parameters, weight_decay=0.1, d0=0.01, d_coef=1e-9), parameters)
    expected = []
    for i, x in enumerate(tensors(0)):
        m, v = torch.zeros_like(x), torch.zeros_like(x)
        for k, lr in enumerate(LRS):
            g = gradients(k)[i]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            x = x - 0.01 * lr * (m / (v.sqrt() + 1e-8) + 0.1 * x)
        expected.append(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("far", [1e-3, 1.0, 1e3])
def test_the_estimate_finds_the_distance_from_below_and_the_minimum_is_reached(far: float) -> None:
    p = nn.Parameter(torch.full((8,), 1 + far, dtype=torch.float64))
    optimizer = Prodigy([p])
    start, estimates = convex(p).item(), []
    for step in range(1500):
        optimizer.zero_grad()
        convex(p).backward()
        optimizer.param_groups[0]["lr"] = (1 + math.cos(math.pi * step / 1500)) / 2
        optimizer.step()
        estimates.append(optimizer.param_groups[0]["d"])
    # By convexity r ≤ ⟨s, x_0 - x*⟩ ≤ ‖s‖₁ ‖x_0 - x*‖_∞, which is `far` here.
    assert estimates == sorted(estimates)
    assert far / 100 < estimates[-1] <= far
    assert convex(p) < 1e-3 * start


def test_a_step_with_lr_0_moves_nothing_and_leaves_d() -> None:
    parameters = [nn.Parameter(x) for x in tensors(0)]
    optimizer = Prodigy(parameters, weight_decay=0.1)
    before = moved(optimizer, parameters, lrs=[0.0])
    assert all(torch.equal(x, y) for x, y in zip(before, tensors(0), strict=True))
    assert optimizer.param_groups[0]["d"] == 1e-6
    moved(optimizer, parameters)
    d = optimizer.param_groups[0]["d"]
    moved(optimizer, parameters, lrs=[0.0])
    assert optimizer.param_groups[0]["d"] == d > 1e-6


def test_a_group_with_lr_0_does_not_act_on_the_estimate_of_the_others() -> None:
    estimates = []
    for frozen in ([], [nn.Parameter(torch.ones(3, dtype=torch.float64))]):
        parameters = [nn.Parameter(x) for x in tensors(0)]
        groups = [{"params": parameters}, {"params": frozen, "lr": 0.0, "scale": 0.0}]
        optimizer = Prodigy(groups)
        for p in frozen:
            p.grad = torch.full_like(p, 100.0)
        moved(optimizer, parameters)
        estimates.append([group["d"] for group in optimizer.param_groups])
    assert estimates[0] == estimates[1] != [1e-6, 1e-6]


def test_a_parameter_begins_where_it_is_when_its_gradients_begin() -> None:
    early, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Prodigy([early, late])
    early.grad = torch.ones(2)
    optimizer.step()
    with torch.no_grad():
        late.fill_(3.0)
    late.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[early]["p0"].tolist() == [1.0, 1.0]
    assert optimizer.state[late]["p0"].tolist() == [3.0, 3.0]


def test_a_gradient_of_zero_leaves_d() -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    optimizer = Prodigy([p])
    optimizer.step()
    assert optimizer.param_groups[0]["d"] == 1e-6
    assert p.tolist() == [1.0] * 3


def test_the_estimate_is_saved_and_goes_on() -> None:
    parameters, others = ([nn.Parameter(x) for x in tensors(0)] for _ in range(2))
    whole, first = Prodigy(parameters), Prodigy(others)
    expected = moved(whole, parameters) and moved(whole, parameters)
    moved(first, others)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = Prodigy(others)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    found = moved(second, others)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert second.param_groups[0]["d"] == whole.param_groups[0]["d"] > 1e-6


def test_what_has_no_gradient_for_a_while_is_still_in_the_norm() -> None:
    often, seldom = nn.Parameter(torch.full((2,), 0.01)), nn.Parameter(torch.ones(100))
    optimizer = Prodigy([seldom, often])
    for t in range(300):
        optimizer.zero_grad()
        loss = 1e-3 * (often - 0.02).abs().sum() + ((seldom - 2).abs().sum() if t % 2 == 0 else 0)
        loss.backward()
        optimizer.step()
    assert 0.1 < optimizer.param_groups[0]["d"] < 1.5  # the distance is 1 at most; without the norm it was 8e6
    assert float((seldom.detach() - 2).abs().max()) < 0.3


@pytest.mark.parametrize("missing", [0, 3])
def test_no_gradient_counts_as_one_of_zero_in_the_estimate(missing: int) -> None:
    estimates = []
    for zero in (True, False):
        parameters = [nn.Parameter(x) for x in tensors(0)]
        optimizer = Prodigy(parameters, d0=0.1)
        for t in range(6):
            for index, (p, g) in enumerate(zip(parameters, gradients(t), strict=True)):
                p.grad = g
                if index == missing and t in (2, 3):
                    p.grad = torch.zeros_like(p) if zero else None
            optimizer.step()
            if t < 4:
                estimates.append(optimizer.param_groups[0]["d"])
    assert estimates[:4] == pytest.approx(estimates[4:], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", -0.1, "lr"),
        ("lr", math.nan, "lr"),
        ("betas", (1.0, 0.999), r"betas\[0\]"),
        ("betas", (0.9, 1.0), r"betas\[1\]"),
        ("eps", 0.0, "eps"),
        ("weight_decay", math.inf, "weight_decay"),
        ("d0", 0.0, "d0"),
        ("d_coef", -1.0, "d_coef"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float | tuple[float, float], said: str) -> None:
    with pytest.raises(ValueError, match=rf"{said} must be in .*, got "):
        Prodigy([nn.Parameter(torch.ones(2))], **{name: value})  # type: ignore[arg-type]

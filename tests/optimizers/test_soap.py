"""SOAP against its paper, and what follows from its equations."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stepsize.optimizers.soap import SOAP, project

STEPS = 12
LRS = [0.01 + 0.005 * math.sin(t) for t in range(STEPS)]
SHAPES = [(5, 5), (3, 2, 2, 3), (5,)]  # a first gradient of full rank: else eigenvectors would be free to turn
HYPER: dict[str, Any] = {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}


def tensors(seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    return [nn.Parameter(x) for x in tensors(0, shapes)]


def moved(optimizer: Optimizer, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    ps = optimizer.param_groups[0]["params"]
    for t, lr in enumerate(LRS, start=1):
        for p, g in zip(ps, tensors(99 + t, shapes), strict=True):
            p.grad = g
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    return [p.detach() for p in ps]


def flipped(q: Tensor, t: int) -> Tensor:
    """Eigenvectors have no sign of their own: here they get others at each refresh."""
    return q * torch.tensor([(-1.0) ** (j * t) for j in range(len(q))], dtype=q.dtype)


def reference(layer: int, beta: float, k: int) -> Tensor:
    """Algorithm 3, where one matrix Q = Q_1 ⊗ Q_2 ⊗ ... rotates the layer as a vector, and M is not rotated."""
    (beta1, beta2), eps, decay = HYPER["betas"], HYPER["eps"], HYPER["weight_decay"]
    w = tensors(0)[layer]
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    factors = [torch.zeros(n, n, dtype=w.dtype) for n in w.shape] if w.ndim > 1 else []
    bases: list[Tensor] = []
    for t, eta in enumerate(LRS, start=1):
        g = tensors(99 + t)[layer]
        if factors and t == 1:
            n = g / (g.abs() + eps)
        else:
            n_averaged = t - 1 if factors else t
            q = reduce(torch.kron, bases, torch.ones(1, 1, dtype=w.dtype))
            q = q if bases else torch.eye(w.numel(), dtype=w.dtype)
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * (q.T @ g.flatten()).reshape(w.shape) ** 2
            m_hat = (q.T @ m.flatten()).reshape(w.shape) / (1 - beta1**n_averaged)
            v_hat = v / (1 - beta2**n_averaged)
            n = (q @ (m_hat / (v_hat.sqrt() + eps)).flatten()).reshape(w.shape)
        w = w - eta * (n + decay * w)
        for i, factor in enumerate(factors):
            new = torch.zeros_like(factor)
            for a in range(len(factor)):
                for b in range(len(factor)):
                    new[a, b] = (g.select(i, a) * g.select(i, b)).sum()
            factor.copy_(beta * factor + (1 - beta) * new)
        if t == 1:
            bases = [flipped(torch.linalg.eigh(factor)[1].flip(1), t) for factor in factors]
        elif (t - 1) % k == 0:
            for i, factor in enumerate(factors):
                order = torch.argsort(torch.diag(bases[i].T @ factor @ bases[i]), descending=True)
                v = v.index_select(i, order)
                bases[i] = flipped(torch.linalg.qr(factor @ bases[i][:, order])[0], t)
    return w


@pytest.mark.parametrize("layer", range(len(SHAPES)))
@pytest.mark.parametrize("beta", [None, 0.7])
def test_twelve_steps_equal_the_papers_algorithm(layer: int, beta: float | None) -> None:
    found = moved(SOAP(parameters(), shampoo_beta=beta, precondition_frequency=3, **HYPER))[layer]
    expected = reference(layer, beta or HYPER["betas"][1], 3)
    # Eigenvectors carry the rounding of the factors, 1e-16, over the smallest gap between two eigenvalues.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_a_vector_is_rotated_where_it_is_asked_for() -> None:
    optimizer = SOAP(parameters(), precondition_1d=True, precondition_frequency=STEPS, **HYPER)
    moved(optimizer)
    p = optimizer.param_groups[0]["params"][2]
    basis, first = optimizer.state[p]["basis_0"], tensors(100)[2]
    torch.testing.assert_close(basis[:, 0].dot(first).abs(), first.norm())


def test_with_the_identity_as_basis_it_is_adamw() -> None:
    found = moved(SOAP(parameters(), max_precondition_dim=0, **HYPER))
    torch.testing.assert_close(found, moved(AdamW(parameters(), **HYPER)), rtol=1e-13, atol=1e-14)


def test_the_first_step_is_adamws() -> None:
    p, q = parameters()[0], parameters()[0]
    for one, cls in ((p, SOAP), (q, AdamW)):
        one.grad = tensors(1)[0]
        cls([one], lr=0.1, **HYPER).step()
    torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


def test_a_dimension_above_the_largest_is_left_as_it_is() -> None:
    optimizer = SOAP(parameters(), max_precondition_dim=2, **HYPER)
    moved(optimizer)
    names = [name for name in optimizer.state[optimizer.param_groups[0]["params"][1]] if "basis" in name]
    assert names == ["basis_1", "basis_2"]


def test_the_bases_are_orthogonal() -> None:
    optimizer = SOAP(parameters(), precondition_frequency=3, **HYPER)
    moved(optimizer)
    bases = [x for state in optimizer.state.values() for name, x in state.items() if "basis" in name]
    assert len(bases) == 6
    for q in bases:
        torch.testing.assert_close(q.mT @ q, torch.eye(len(q), dtype=q.dtype), rtol=0, atol=1e-14)


def test_gradients_of_one_distribution_lose_their_correlation_in_the_basis() -> None:
    torch.manual_seed(0)
    mix = torch.randn(6, 6, dtype=torch.float64)
    p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = SOAP([p], shampoo_beta=0.99)
    for _ in range(600):
        p.grad = mix @ torch.randn_like(p)
        optimizer.step()
    q, covariance = optimizer.state[p]["basis_0"], mix @ mix.T
    rotated = q.T @ covariance @ q
    off = (rotated - rotated.diag().diag()).norm()
    assert off < 0.2 * (covariance - covariance.diag().diag()).norm()


def test_projecting_there_and_back_changes_nothing() -> None:
    x = tensors(0)[1]
    bases = [torch.linalg.qr(torch.randn(n, n, dtype=x.dtype))[0] for n in x.shape]
    there: list[Tensor | None] = [bases[0], None, *bases[2:]]
    back = [None if q is None else q.mT for q in there]
    torch.testing.assert_close(project(project(x, there), back), x, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_steps_are_of_the_order_of_lr_whatever_the_gradients(scale: float, rank: int) -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(6, 9))
    optimizer = SOAP([p], lr=1e-3, weight_decay=0.0, precondition_frequency=2)
    left = torch.randn(6, rank)
    largest = 0.0
    for _ in range(30):
        before = p.detach().clone()
        p.grad = scale * left @ torch.ones(rank, 9)
        optimizer.step()
        largest = max(largest, (p - before).norm().item())
    # Adam moves no coordinate of the basis by much more than lr: in 54 of them together, by lr · √54.
    assert largest < 2 * 1e-3 * math.sqrt(54)


def test_it_beats_adamw_where_rows_and_columns_are_badly_conditioned() -> None:
    torch.manual_seed(0)
    a, b = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (16, 12))
    a = a @ torch.logspace(0, -2, 16, dtype=torch.float64).diag() @ a.T
    b = b @ torch.logspace(0, -2, 12, dtype=torch.float64).diag() @ b.T
    start = torch.randn(16, 12, dtype=torch.float64)

    def loss_after_300_steps(cls: type[Optimizer]) -> float:
        w = nn.Parameter(start.clone())
        optimizer = cls([w], lr=0.1, weight_decay=0.0)  # type: ignore[call-arg]
        for _ in range(300):
            w.grad = a @ w.detach() @ b  # of tr(Wᵀ A W B) / 2
            optimizer.step()
        return float((w * (a @ w @ b)).sum().detach()) / 2

    assert loss_after_300_steps(SOAP) < 0.1 * loss_after_300_steps(AdamW)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", -0.1, "lr"),
        ("betas", (1.0, 0.999), r"betas\[0\]"),
        ("shampoo_beta", 1.0, "shampoo_beta"),
        ("eps", -1e-8, "eps"),
        ("weight_decay", math.nan, "weight_decay"),
        ("precondition_frequency", 0, "precondition_frequency"),
        ("max_precondition_dim", -1, "max_precondition_dim"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{said} must be in .*, got "):
        SOAP([nn.Parameter(torch.ones(2))], **{name: value})


def test_directions_without_gradient_stay_nearly_where_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    span = torch.linalg.qr(torch.randn(64, 2, generator=generator)).Q
    p = nn.Parameter(torch.zeros(64, 32))
    optimizer = SOAP([p], lr=0.01, weight_decay=0.0)
    inside, outside = [], []
    for t in range(30):
        before = p.detach().clone()
        p.grad = span @ torch.randn(2, 32, generator=generator)
        optimizer.step()
        step = p.detach() - before
        along = span @ (span.T @ step)
        if t > 0:  # the first step is AdamW's
            inside.append(float(along.norm()))
            outside.append(float((step - along).norm()))
    assert max(outside) < 0.2 * min(inside)  # it was five times as large as that inside

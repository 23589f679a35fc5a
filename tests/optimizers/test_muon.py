"""Muon against its papers, torch's Muon and torch's AdamW."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepsize.optimizers.muon import LARGEST_BATCH, Muon

STEPS = 12
SHAPES = {"square": (4, 4), "wide": (3, 7), "tall": (7, 3), "twin": (3, 7), "kernel": (4, 2, 3, 3), "vector": (5,)}
LR, DECAY, MOMENTUM, EPS = 0.02, 0.1, 0.9, 1e-7
RATIO, BETAS, ADAM_EPS = 0.5, (0.8, 0.9), 1e-6


def drawn(shapes: Mapping[str, tuple[int, ...]], steps: int = STEPS, dtype: torch.dtype = torch.float64) -> Any:
    """Parameters, and their gradients of each step, by name."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> dict[str, Tensor]:
        return {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in shapes.items()}

    return draw(), [draw() for _ in range(steps)]


def walked(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], gradients: list[dict[str, Tensor]]) -> Any:
    """Where the optimizer takes the parameters, by gradients that are given and an lr that changes."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for t, given in enumerate(gradients):
        for name, p in named.items():
            p.grad = given[name].clone()
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr / (1 + t)
        optimizer.step()
    return {name: p.detach() for name, p in named.items()}


def parameters(values: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value.clone()) for name, value in values.items()}


def reference(w: Tensor, gradients: list[Tensor], *, nesterov: bool, original: bool) -> Tensor:
    """Jordan's loop on one parameter, and AdamW's on a vector."""
    b, m, v = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients):
        lr = LR / (1 + t)
        if w.ndim < 2:
            lr *= RATIO
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * g * g
            m_hat, v_hat = m / (1 - BETAS[0] ** (t + 1)), v / (1 - BETAS[1] ** (t + 1))
            w = w - lr * DECAY * w - lr * m_hat / (v_hat.sqrt() + ADAM_EPS)
            continue
        b = MOMENTUM * b + (1 - MOMENTUM) * g
        x = ((1 - MOMENTUM) * g + MOMENTUM * b if nesterov else b).reshape(w.shape[0], -1)
        rows, columns = x.shape
        x = x / (x.square().sum().sqrt() + EPS)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
        scale = math.sqrt(max(1, rows / columns)) if original else 0.2 * math.sqrt(max(rows, columns))
        w = w - lr * DECAY * w - lr * scale * x.reshape(w.shape)
    return w


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_twelve_steps_agree_with_the_papers_in_doubles(nesterov: bool, adjust_lr_fn: str) -> None:
    start, gradients = drawn(SHAPES)
    named = parameters(start)
    optimizer = Muon(
        named.values(),
        LR,
        DECAY,
        MOMENTUM,
        nesterov,
        eps=EPS,
        adjust_lr_fn=adjust_lr_fn,
        adamw_lr_ratio=RATIO,
        adamw_betas=BETAS,
        adamw_eps=ADAM_EPS,
    )
    found = walked(optimizer, named, gradients)
    original = adjust_lr_fn == "original"
    expected = {
        n: reference(w, [g[n] for g in gradients], nesterov=nesterov, original=original) for n, w in start.items()
    }
    # Products sum in another order and A X² is (A²) X here: 1e-16 in a value near 0 is stretched 480-fold in 5
    # iterations, and 12 steps of about 0.02 add up.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_it_agrees_with_torch_on_matrices(adjust_lr_fn: str) -> None:
    shapes = {"square": (16, 16), "wide": (8, 24), "tall": (24, 8)}
    start, gradients = drawn(shapes, dtype=torch.float32)
    ours, theirs = parameters(start), parameters(start)
    found = walked(Muon(ours.values(), LR, ns_dtype="bfloat16", adjust_lr_fn=adjust_lr_fn), ours, gradients)
    peer = torch.optim.Muon(theirs.values(), LR, adjust_lr_fn=adjust_lr_fn)
    expected = walked(peer, theirs, gradients)
    # Both iterate in bfloat16, theirs from a matrix rounded before it is divided by its norm: an entry of an update
    # differs by some hundredths, and lr times their scale, at most 1.8, times Σ 1/t = 3.1 bounds the sum.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * LR * 1.8 * 3.1)
    assert all((found[n] - start[n]).norm() > 20 * (found[n] - expected[n]).norm() for n in shapes)


def test_parameters_that_are_no_matrices_follow_torch_s_adamw() -> None:
    start, gradients = drawn({"matrix": (3, 4), "vector": (6,), "scalar": ()})
    ours, theirs = parameters(start), parameters(start)
    adamw = torch.optim.AdamW(theirs.values(), LR * RATIO, BETAS, ADAM_EPS, DECAY)
    muon = Muon(ours.values(), LR, DECAY, adamw_lr_ratio=RATIO, adamw_betas=BETAS, adamw_eps=ADAM_EPS)
    found, expected = walked(muon, ours, gradients), walked(adamw, theirs, gradients)
    # Bias corrections are multiplied in another order.
    torch.testing.assert_close(found["vector"], expected["vector"], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(found["scalar"], expected["scalar"], rtol=1e-13, atol=1e-15)


def test_a_group_s_rule_gives_matrices_to_adamw() -> None:
    start, gradients = drawn({"hidden": (3, 4), "embedding": (5, 4)})
    ours, theirs = parameters(start), parameters(start)
    groups: list[dict[str, Any]] = [{"params": [ours["hidden"]]}, {"params": [ours["embedding"]], "rule": "adamw"}]
    muon = Muon(groups, LR, DECAY, adamw_betas=BETAS, adamw_eps=ADAM_EPS)
    adamw = torch.optim.AdamW(theirs.values(), LR, BETAS, ADAM_EPS, DECAY)
    found, expected = walked(muon, ours, gradients), walked(adamw, theirs, gradients)
    torch.testing.assert_close(found["embedding"], expected["embedding"], rtol=1e-13, atol=1e-15)


def test_a_convolution_moves_as_its_flattened_matrix() -> None:
    start, gradients = drawn({"kernel": (4, 2, 3, 3)})
    kernel = parameters(start)
    flat = parameters({"kernel": start["kernel"].flatten(1)})
    found = walked(Muon(kernel.values(), LR), kernel, gradients)["kernel"]
    expected = walked(Muon(flat.values(), LR), flat, [{"kernel": g["kernel"].flatten(1)} for g in gradients])
    assert torch.equal(found.flatten(1), expected["kernel"])


def test_a_convolution_in_channels_last_moves_alike() -> None:
    start, gradients = drawn({"kernel": (4, 2, 3, 3)})
    one, other = parameters(start), parameters(start)
    other["kernel"].data = other["kernel"].data.to(memory_format=torch.channels_last)
    found, expected = (walked(Muon(named.values(), LR), named, gradients)["kernel"] for named in (other, one))
    assert torch.equal(found, expected)


def test_matrices_together_move_as_each_alone() -> None:
    start, gradients = drawn({f"w{i}": (6, 5) for i in range(5)})
    together, alone = parameters(start), parameters(start)
    found = walked(Muon(together.values(), LR), together, gradients)
    expected = {n: walked(Muon([p], LR), {n: p}, gradients)[n] for n, p in alone.items()}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # products may sum in another order


def test_matrices_of_one_shape_are_one_batch_whatever_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counting(matrices: Tensor, *_: Any) -> Tensor:
        seen.append(len(matrices))
        return matrices

    monkeypatch.setattr("stepsize.optimizers.muon.orthogonalize", counting)
    start, gradients = drawn({f"w{i}": (6, 5) for i in range(6)}, steps=1)
    named = parameters(start)
    one, two, *others = named.values()
    groups: list[dict[str, Any]] = [{"params": [one]}, {"params": [two]}, {"params": others, "lr": 0.5}]
    walked(Muon(groups, LR), named, gradients)
    assert seen == [2, 4]


def test_a_batch_too_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    start, gradients = drawn({f"w{i}": (6, 5) for i in range(5)})
    whole, cut = parameters(start), parameters(start)
    expected = walked(Muon(whole.values(), LR), whole, gradients)
    monkeypatch.setitem(LARGEST_BATCH, "cpu", 2 * 6 * 5)
    found = walked(Muon(cut.values(), LR), cut, gradients)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # products may sum in another order


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_with_match_rms_adamw_a_step_has_the_size_of_adamw_s(shape: tuple[int, int]) -> None:
    start, gradients = drawn({"w": shape}, steps=1)
    named = parameters(start)
    moved = walked(Muon(named.values(), 1.0, 0.0), named, gradients)["w"] - start["w"]
    # 0.2 at singular values of 1; quintic leaves them in [0.68, 1.15] where they began above 0.005.
    assert 0.2 * 0.68 < moved.square().mean().sqrt() < 0.2 * 1.15


def test_the_step_of_a_matrix_is_semi_orthogonal() -> None:
    start, gradients = drawn({"w": (8, 24)}, steps=1)
    named = parameters(start)
    optimizer = Muon(named.values(), 1.0, 0.0, adjust_lr_fn="original", ns_coefficients="polar_express", ns_steps=10)
    moved = walked(optimizer, named, gradients)["w"] - start["w"]
    torch.testing.assert_close(moved @ moved.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-6)


def test_state_has_torch_s_names() -> None:
    start, gradients = drawn({"w": (3, 4), "b": (3,)}, steps=1)
    named = parameters(start)
    optimizer = Muon(named.values())
    walked(optimizer, named, gradients)
    assert list(optimizer.state[named["w"]]) == ["step", "momentum_buffer"]
    assert list(optimizer.state[named["b"]]) == ["step", "exp_avg", "exp_avg_sq"]


def test_adamw_s_lr_follows_that_of_the_group() -> None:
    start, gradients = drawn({"w": (3, 4), "b": (3,)})
    named = parameters(start)
    found = walked(Muon(named.values(), 0.0), named, gradients)
    assert all(torch.equal(found[n], start[n]) for n in start)


def test_a_half_precision_matrix_is_rounded_once() -> None:
    start, gradients = drawn({"w": (6, 5)}, steps=1, dtype=torch.bfloat16)
    half, wide = parameters(start), parameters({"w": start["w"].float()})
    # The direction of a first step has the sign and shape of the gradient; momentum 0 makes it the gradient.
    found = walked(Muon(half.values(), LR, momentum=0.0), half, gradients)["w"]
    exact = walked(Muon(wide.values(), LR, momentum=0.0), wide, [{"w": gradients[0]["w"].float()}])["w"]
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_of_the_iteration_may_be_chosen(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    seen: list[torch.dtype] = []

    def noting(matrices: Tensor, _: Any, dtype: torch.dtype, __: float) -> Tensor:
        seen.append(dtype)
        return matrices

    monkeypatch.setattr("stepsize.optimizers.muon.orthogonalize", noting)
    start, gradients = drawn({"w": (3, 4)}, steps=1)
    named = parameters(start)
    walked(Muon(named.values(), ns_dtype=dtype), named, gradients)
    assert seen == [getattr(torch, dtype)]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lr": -1.0}, "lr must be in [0, inf), got -1.0"),
        ({"weight_decay": math.nan}, "weight_decay must be in [0, inf), got nan"),
        ({"momentum": 1.0}, "momentum must be in [0, 1), got 1.0"),
        ({"eps": 0.0}, "eps must be in (0, inf), got 0.0"),
        ({"ns_steps": 0}, "ns_steps must be in [1, inf), got 0.0"),
        ({"ns_steps": 2.5}, "ns_steps must be a whole number, got 2.5"),
        ({"ns_coefficients": ["abc"]}, "ns_coefficients must be a word or a list of triples"),
        ({"ns_coefficients": [(float("nan"), 0, 0)]}, "ns_coefficients must be a word or a list of triples"),
        ({"ns_dtype": "float16"}, "ns_dtype must be one of None, bfloat16, float32, got 'float16'"),
        ({"adjust_lr_fn": "rms"}, "adjust_lr_fn must be one of match_rms_adamw, original, got 'rms'"),
        ({"ns_coefficients": "polar"}, "ns_coefficients='polar': "),
        ({"ns_coefficients": (3.4, -4.7, 2.0)}, "ns_coefficients must be a word or a list of triples, got (3.4, -4.7"),
        ({"ns_coefficients": 5.0}, "ns_coefficients must be a word or a list of triples, got 5.0"),
        ({"ns_coefficients": []}, "ns_coefficients must be a word or a list of triples, got []"),
        ({"adamw_lr_ratio": -1.0}, "adamw_lr_ratio must be in [0, inf), got -1.0"),
        ({"adamw_betas": (0.9, 1.0)}, "adamw_betas[1] must be in [0, 1), got 1.0"),
        ({"adamw_eps": -1e-8}, "adamw_eps must be in [0, inf), got -1e-08"),
    ],
)
def test_a_value_out_of_range_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Muon([nn.Parameter(torch.zeros(2, 2))], **keywords)


def test_no_matrix_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Muon has no matrix to orthogonalise: .* take AdamW"):
        Muon([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))])


def test_matrices_that_are_all_adamw_s_are_refused() -> None:
    with pytest.raises(ValueError, match="Muon has no matrix to orthogonalise"):
        Muon([{"params": [nn.Parameter(torch.zeros(3, 3))], "rule": "adamw"}])


def test_the_rule_muon_refuses_a_vector_and_adds_nothing() -> None:
    optimizer = Muon([nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(
        ValueError, match=re.escape("rule='muon' is for matrices; a parameter of its group has the shape (3,)")
    ):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "rule": "muon"})
    assert len(optimizer.param_groups) == 1


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="rule must be one of None, muon, adamw, got 'sgd'"):
        Muon([{"params": [nn.Parameter(torch.zeros(2, 2))], "rule": "sgd"}])

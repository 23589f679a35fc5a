"""SAM and ASAM against their papers, their base, and the recipe's way to name it."""

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from stepsize import build
from stepsize.check import check
from stepsize.errors import ConfigError
from stepsize.optimizers.lion import Lion
from stepsize.optimizers.sam import SAM

Composed = Callable[..., DictConfig]
STEPS = 12
LRS = [0.01 + 0.005 * math.sin(t) for t in range(STEPS)]
SHAPES = [(7, 5), (11,), (2, 3)]
CPU = torch.device("cpu")


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in SHAPES]


def loss(w: list[Any], centre: list[Tensor]) -> Tensor:
    terms = [((p - c) ** 2 / 2 + (p - c) ** 4 / 4).sum() for p, c in zip(w, centre, strict=True)]
    return torch.stack(terms).sum()


def gradient(w: list[Tensor], centre: list[Tensor]) -> list[Tensor]:
    """Of the loss above, by hand."""
    return [(p - c) + (p - c) ** 3 for p, c in zip(w, centre, strict=True)]


def run(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Twelve steps, each on a loss of its own."""
    for t, lr in enumerate(LRS):
        centre = tensors(100 + t, parameters[0].dtype)

        def closure(centre: list[Tensor] = centre) -> Tensor:
            optimizer.zero_grad()
            value = loss(parameters, centre)
            value.backward()
            return value

        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step(closure)
    return [p.detach().clone() for p in parameters]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(x) for x in tensors(0, dtype)]


def reference(rho: float, eta: float | None) -> list[Tensor]:
    """Algorithm 1 of SAM on SGD with weight decay 0.1; with η, of ASAM. Norms summed coordinate by coordinate."""
    w = tensors(0)
    for t, lr in enumerate(LRS):
        g = gradient(w, tensors(100 + t))
        scale = [torch.ones_like(x) if eta is None else x.abs() + eta for x in w]
        norm = math.sqrt(math.fsum(c * c for a, b in zip(scale, g, strict=True) for c in (a * b).flatten().tolist()))
        e = [rho * a**2 * b / norm for a, b in zip(scale, g, strict=True)]
        g = gradient([x + d for x, d in zip(w, e, strict=True)], tensors(100 + t))
        w = [x - lr * (b + 0.1 * x) for x, b in zip(w, g, strict=True)]
    return w


# The norm is summed in another order, and a power's derivative is no product by hand: a few units in the last place.
@pytest.mark.parametrize(("adaptive", "eta"), [(False, None), (True, 0.01)])
def test_twelve_steps_equal_the_papers_algorithm(adaptive: bool, eta: float | None) -> None:
    ps = parameters()
    groups = [{"params": ps[:2]}, {"params": ps[2:]}]  # the norm is over both
    found = run(SAM(groups, weight_decay=0.1, rho=0.3, adaptive=adaptive), ps)
    torch.testing.assert_close(found, reference(0.3, eta), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("word", "cls", "options"),
    [
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.95)}),
        ("adamw", torch.optim.AdamW, {"fused": True}),
        ("lion", Lion, {"betas": (0.8, 0.95)}),
    ],
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_with_rho_0_it_is_its_base_bit_for_bit(word: str, cls: Any, options: dict[str, Any], adaptive: bool) -> None:
    ps, others = parameters(torch.float32), parameters(torch.float32)
    found = run(SAM(ps, base=word, lr=0.1, weight_decay=0.1, rho=0.0, adaptive=adaptive, options=options), ps)
    expected = run(cls(others, lr=0.1, weight_decay=0.1, **options), others)
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(SHAPES)


class Counted:
    """A closure that notes where it was called, what it returned, and which gradient it made."""

    def __init__(self, ps: list[nn.Parameter]) -> None:
        self.ps = ps
        self.at: list[list[Tensor]] = []
        self.losses: list[Tensor] = []
        self.gradients: list[list[Tensor]] = []

    def __call__(self) -> Tensor:
        for p in self.ps:
            p.grad = None
        value = loss(self.ps, tensors(100))
        value.backward()
        self.at.append([p.detach().clone() for p in self.ps])
        self.losses.append(value)
        self.gradients.append([p.grad.clone() for p in self.ps if p.grad is not None])
        return value


def test_the_second_evaluation_is_rho_away_and_leaves_its_gradient() -> None:
    ps = parameters()
    closure = Counted(ps)
    returned = SAM(ps, rho=0.3).step(closure)
    first, second = closure.at
    away = math.sqrt(sum(float((b - a).square().sum()) for a, b in zip(first, second, strict=True)))
    assert away == pytest.approx(0.3, rel=1e-12)
    assert closure.losses[1] > closure.losses[0]
    assert returned is closure.losses[0]
    assert [torch.equal(p.grad, g) for p, g in zip(ps, closure.gradients[1], strict=True)] == [True] * len(SHAPES)  # type: ignore[arg-type]


def test_the_step_is_taken_from_the_very_weights_that_were_left() -> None:
    ps = parameters(torch.float32)
    SAM(ps, lr=0.0, rho=0.3).step(Counted(ps))
    assert [torch.equal(p, x) for p, x in zip(ps, tensors(0, torch.float32), strict=True)] == [True] * len(SHAPES)


def test_a_closure_that_fails_in_the_second_evaluation_leaves_the_weights_as_they_were() -> None:
    ps = parameters()
    closure = Counted(ps)

    def fails() -> Tensor:
        if closure.losses:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        SAM(ps, rho=0.3).step(fails)
    assert all(torch.equal(p, x) for p, x in zip(ps, tensors(0), strict=True))


def test_a_gradient_of_zero_is_not_climbed() -> None:
    p = nn.Parameter(torch.ones(3))
    places = []

    def closure() -> Tensor:
        places.append(p.tolist())
        p.grad = torch.zeros(3)
        return p.sum()

    SAM([p], rho=0.3).step(closure)
    assert [*places, p.tolist()] == [[1.0] * 3] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_reaches_the_base(value: float) -> None:
    p = nn.Parameter(torch.ones(3))

    def closure() -> Tensor:
        p.grad = torch.tensor([value, 1.0, 1.0])
        return p.sum()

    SAM([p], rho=0.3, lr=0.1).step(closure)
    assert [math.isfinite(x) for x in p.tolist()] == [False, True, True]


def _pickled(optimizer: SAM) -> SAM:
    return pickle.loads(pickle.dumps(optimizer))


def _loaded(optimizer: SAM) -> SAM:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    new = SAM([nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]], base="adamw", rho=0.3)
    new.load_state_dict(torch.load(buffer, weights_only=True))
    return new


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled, _loaded])
def test_a_copy_goes_on_bit_for_bit_and_shares_groups_and_state_with_its_base(copied: Callable[[SAM], SAM]) -> None:
    ps = parameters()
    optimizer = SAM(ps, base="adamw", rho=0.3)
    run(optimizer, ps)
    other = copied(optimizer)
    assert other.param_groups is other.base.param_groups
    assert other.state is other.base.state
    found, expected = run(other, other.param_groups[0]["params"]), run(optimizer, ps)
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(SHAPES)


def test_a_group_that_is_added_takes_the_defaults_of_both() -> None:
    first, second = parameters()[:2]
    optimizer = SAM([first], base="adamw", lr=0.1, rho=0.3)
    optimizer.add_param_group({"params": [second], "weight_decay": 0.0})
    added = optimizer.base.param_groups[1]
    assert (added["rho"], added["adaptive"], added["lr"], added["weight_decay"]) == (0.3, False, 0.1, 0.0)


def test_a_base_that_takes_the_horizon_is_given_it() -> None:
    assert SAM(parameters(), base="lion", horizon=7).param_groups[0]["horizon"] == 7
    assert "horizon" not in SAM(parameters(), base="adamw", horizon=7).param_groups[0]


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"base": "admaw"}, r"base=admaw: there is no such optimizer; did you mean adamw\?"),
        ({"base": "lbfgs"}, "base=lbfgs: it evaluates a batch several times itself"),
        ({"lr": 0.1, "options": {"lr": 0.5}}, "lr is given twice, 0.1 and in options 0.5"),
        ({"base": "sam"}, "base=sam: it evaluates a batch several times itself"),
        ({"base": "schedule_free_sgd"}, "base=schedule_free_sgd: it evaluates the network at other weights"),
        ({"options": {"momentun": 0.9}}, r"sgd has no argument momentun; did you mean momentum\?"),
        ({"options": {"params": []}}, "sgd has no argument params"),
        ({"options": "momentum"}, "options must be a mapping of the base's arguments, got 'momentum'"),
        ({"base": None}, "base=None: there is no such optimizer"),
        ({"horizon": -1}, "horizon must be"),
        ({"options": {"momentum": -1.0}}, "Invalid momentum value: -1.0"),
        ({"base": "lion", "lr": -1.0}, r"lr must be in \[0, inf\), got -1"),
        ({"rho": -0.1}, r"rho must be in \[0, inf\), got -0.1"),
        ({"rho": math.nan}, "rho must be in .*, got nan"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_with_the_reason(keywords: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SAM(parameters(), **keywords)


def test_a_group_with_a_wrong_rho_is_refused_and_not_added() -> None:
    optimizer = SAM(parameters())
    with pytest.raises(ValueError, match="rho must be in"):
        optimizer.add_param_group({"params": parameters(), "rho": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_step_without_a_closure_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"call step\(closure\)"):
        SAM(parameters()).step()


def test_a_sparse_gradient_is_refused_before_anything_changes() -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    before = layer.weight.detach().clone()

    def closure() -> Tensor:
        layer.weight.grad = None
        value: Tensor = layer(torch.tensor([1])).sum()
        value.backward()
        return value

    with pytest.raises(RuntimeError, match="SAM takes dense gradients only"):
        SAM(layer.parameters()).step(closure)
    assert torch.equal(layer.weight, before)


def test_a_word_means_its_yaml_in_the_recipe(composed: Composed) -> None:
    found = build.optimizer(composed("optimizer=sam"), CPU).keywords
    assert (found["base"], found["lr"], found["weight_decay"]) == ("momentum", 0.05, 5e-4)
    assert found["options"] == {"momentum": 0.9, "fused": False}


def test_what_the_user_sets_of_the_base_goes_over_its_yaml(composed: Composed) -> None:
    words = ["optimizer.base=lion", "optimizer.weight_decay=0.3", "optimizer.options.betas=[0.9,0.95]"]
    make = build.optimizer(composed("optimizer=sam", *words), CPU)
    yaml = build.optimizer(composed("optimizer=lion"), CPU).keywords
    group = make([nn.Parameter(torch.ones(2))]).param_groups[0]
    assert (make.keywords["lr"], group["lr"]) == (yaml["lr"], yaml["lr"])
    assert (make.keywords["weight_decay"], group["weight_decay"]) == (0.3, 0.3)
    assert group["betas"] == [0.9, 0.95]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer.lr=0.1", "optimizer.options.lr=0.3"], "optimizer.lr and optimizer.options.lr are the same"),
        (["optimizer.options.beta=0.9"], r"optimizer.options.beta: AdamW has no such argument; did you mean betas\?"),
        (["optimizer.options.betas=[0.9]"], r"optimizer.options.betas: AdamW takes 2 values, got \[0.9\]"),
        (["optimizer.base=admaw"], r"optimizer.base=admaw: there is no such optimizer; did you mean adamw\?"),
        (["optimizer.rho=-1"], r"optimizer: rho must be in \[0, inf\), got -1"),
        (["trainer.accumulate_grad_batches=2"], "SAM .* cannot accumulate batches; set"),
        (["trainer.precision=16-mixed"], "SAM .* 16-mixed cannot scale; set"),
    ],
)
def test_the_recipe_refuses_what_cannot_work(composed: Composed, words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check(composed("optimizer=sam", "optimizer.base=adamw", *words))


def test_the_recipe_takes_groups_for_sam(composed: Composed) -> None:
    cfg = composed("optimizer=sam", "param_groups.layer_decay=0.5", "trainer.precision=bf16-mixed")
    check(cfg)
    groups = build.task(cfg, build.data(cfg), build.optimizer(cfg, CPU)).groups
    assert {group["lr"] for group in groups} == {0.05, 0.025}


@pytest.mark.parametrize("size", [1e-39, 1e-30, 1e30])
def test_a_tiny_and_a_huge_gradient_are_climbed_no_further_than_rho(size: float) -> None:
    p, seen = nn.Parameter(torch.zeros(1)), []

    def closure() -> None:
        seen.append(p.item())
        p.grad = torch.full_like(p, size)

    SAM([p], base="sgd", lr=0.0, rho=0.5).step(closure)
    assert seen[0] == 0
    assert 0 <= seen[1] <= 0.5

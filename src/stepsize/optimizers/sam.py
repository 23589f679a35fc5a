"""SAM: any optimizer, on the gradient at the worst point nearby."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from stepsize.bounds import COUNT, NON_NEGATIVE
from stepsize.errors import suggestion
from stepsize.optimizers import OPTIMIZERS
from stepsize.optimizers.rule_optimizer import check_number

ETA = 0.01  # η of ASAM, as in its paper's experiments
UNFIT = {
    "lbfgs": "evaluates a batch several times itself",
    "sam": "evaluates a batch several times itself",
    "schedule_free_adamw": "evaluates the network at other weights than it trains",
    "schedule_free_sgd": "evaluates the network at other weights than it trains",
}


class SAM(Optimizer):
    """SAM: step by the gradient of the worst point within a distance ρ, in search of flat minima.

        ĝ = ∇L(w_t)
        ε̂ = ρ ĝ / ‖ĝ‖₂
        g = ∇L(w_t + ε̂)
        w_{t+1} = the step of the base optimizer from w_t with the gradient g

    Foret, Kleiner, Mobahi, Neyshabur, Sharpness-Aware Minimization for Efficiently Improving Generalization, 2020,
    https://arxiv.org/abs/2010.01412, Algorithm 1. ASAM measures the distance relative to each weight, by
    T_w = diag(|w|) + η, so that scaling a layer changes nothing: ε̂ = ρ T_w² ĝ / ‖T_w ĝ‖₂. Kwon, Kim, Park, Choi, ASAM:
    Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks, 2021,
    https://arxiv.org/abs/2102.11600, Algorithm 1.

    The norm is over all parameters of all groups. A step calls the closure twice: it returns the first loss, and the
    gradient it leaves is the second. Groups and state are the base's own, and w_t is restored from a copy. Hooks on the
    steps of all optimizers run for the base, too.

    Args:
        params: parameters or groups of them.
        base: word of the optimizer that takes the step, as in `OPTIMIZERS`: any but those that call the closure
            several times themselves or are evaluated at other weights, L-BFGS, SAM and schedule-free. What a YAML adds
            to a word, such as a momentum, is to be given in options.
        lr: the base's; None for its default.
        weight_decay: the base's; None for its default. It acts on w_t, and is no part of the gradient that is climbed.
        rho: ρ, the distance, 0 or more; 0 is the base itself. 0.02 to 0.2, and with adaptive ten times that.
        adaptive: ASAM in place of SAM.
        options: further arguments of the base, by name.
        horizon: optimizer steps of the whole run, where known; for a base that takes it.

    Raises:
        ValueError: a word that is none or does not fit, an option that the base does not have, or a value that is out
            of its range.
    """

    shardable: ClassVar[bool] = False
    evaluates_again: ClassVar[bool] = True
    ranges: ClassVar = {"lr": NON_NEGATIVE, "weight_decay": NON_NEGATIVE, "rho": NON_NEGATIVE}

    def __init__(
        self,
        params: ParamsT,
        base: str = "sgd",
        lr: float | Tensor | None = None,
        weight_decay: float | None = None,
        rho: float = 0.05,
        adaptive: bool = False,
        options: dict[str, Any] | None = None,
        *,
        horizon: int | None = None,
    ) -> None:
        if not isinstance(options, Mapping | None):
            raise ValueError(f"options must be a mapping of the base's arguments, got {options!r}")
        if horizon is not None:
            check_number("horizon", horizon, COUNT)
        make = self.base_class(base)
        known = inspect.signature(make).parameters
        given = {"lr": lr, "weight_decay": weight_decay, "horizon": horizon if "horizon" in known else None}
        keywords = (options or {}) | {name: value for name, value in given.items() if value is not None}
        for name in keywords:
            if name in (options or {}) and given.get(name) is not None:
                raise ValueError(f"{name} is given twice, {given[name]} and in options {(options or {})[name]}")
            if name not in known or name == "params":
                raise ValueError(f"{base} has no argument {name}; {suggestion(name, {*known} - {'params'})}")
        _check(keywords)
        own = {"rho": rho, "adaptive": adaptive}
        super().__init__(params, own)
        self.base = make(self.param_groups, **keywords)
        self.base.defaults |= own
        self._share()

    def _share(self) -> None:
        """Make the base's groups and state ours; ours alone are the hooks, which are called where the base loads."""
        self.defaults, self.param_groups, self.state = self.base.defaults, self.base.param_groups, self.base.state
        self.base._optimizer_load_state_dict_pre_hooks = self._optimizer_load_state_dict_pre_hooks
        self.base._optimizer_load_state_dict_post_hooks = self._optimizer_load_state_dict_post_hooks

    @staticmethod
    def base_class(word: str) -> type[Optimizer]:
        """The class of a word that may be the base.

        Raises:
            ValueError: there is no such word, or it does not fit.
        """
        fit = [w for w in OPTIMIZERS if w not in UNFIT]
        if word not in fit:
            unknown = f"there is no such optimizer; {suggestion(str(word), fit)}"
            reason = f"it {UNFIT[word]}" if word in UNFIT else unknown
            raise ValueError(f"base={word}: {reason}")
        module, _, name = OPTIMIZERS[word].rpartition(".")
        found: type[Optimizer] = getattr(import_module(module), name)
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not say is as in the base's defaults.

        Raises:
            ValueError: a value is out of its range, or a parameter is complex; nothing has been added then.
        """
        _check(self.defaults | param_group)
        if hasattr(self, "base"):
            self.base.add_param_group(param_group)
        else:  # torch's __init__ reads the groups that the base will be made with
            super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError("SAM has no complex form; view_as_real gives real parameters")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base, with the gradient of the worst point nearby; returns the loss of the first evaluation.

        Args:
            closure: evaluates the loss and its gradient anew; called twice.

        Raises:
            RuntimeError: there is no closure, or a gradient is sparse; nothing has been changed then.
        """
        if closure is None:
            raise RuntimeError(
                "SAM evaluates the loss twice a step: call step(closure), with zero_grad and backward in it"
            )
        with torch.enable_grad():
            loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.layout != torch.strided for p in parameters):
            raise RuntimeError("SAM takes dense gradients only; make the layer with sparse=False")
        before = [p.clone() for p in parameters]
        try:
            self._ascend()
            with torch.enable_grad():
                closure()
        finally:
            for p, w in zip(parameters, before, strict=True):
                p.copy_(w)  # subtracting ε̂ would not give back the same bits
        self.base.step()
        return loss

    def _ascend(self) -> None:
        """From w to w + ε̂."""
        climbed = []  # (p, T_w ĝ, T_w ρ)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    scale = p.abs().add_(ETA) if group["adaptive"] else 1.0
                    climbed.append((p, p.grad * scale, group["rho"] * scale))
        if not climbed:
            return
        like = climbed[0][0]
        norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for _, g, _ in climbed]
        norm = torch.linalg.vector_norm(torch.stack([n.to(like.device) for n in norms]))
        at_least = norm.clamp(min=torch.finfo(norm.dtype).tiny)  # below, 1 / norm is no number any more
        unit = torch.where(norm > 0, 1 / at_least, 0)  # on the device: a gradient of zero has no direction to climb
        for p, g, scale in climbed:
            p.add_(g * scale * unit.to(p.device))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, as the base does."""
        self.base.load_state_dict(state_dict)
        self._share()


def _check(group: Mapping[str, Any]) -> None:
    """Refuse what is out of range; torch's own let NaN pass."""
    for name, interval in SAM.ranges.items():
        if name in group:
            check_number(name, group[name], interval)
    if not isinstance(adaptive := group.get("adaptive", False), bool):
        raise ValueError(f"adaptive must be True or False, got {adaptive!r}")

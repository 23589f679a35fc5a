"""Prodigy: Adam that estimates how far it has to go."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import FRACTION, NON_NEGATIVE, POSITIVE
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, hyperparameters, state_dtype


def prodigy(
    x: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    s: Tensor,
    x0: Tensor,
    *,
    d: Any,
    w1: Any,
    w2: Any,
    root_beta2: Any,
    share: Any,
    lr: Any,
    eps: Any,
    decay: Any,
) -> Tensor:
    """One step, where w is 1 - β, decay is 1 - γdλ; x, m, v and s in place. Returns ⟨g, x₀ - x⟩ and ‖s‖₁."""
    wide = torch.promote_types(x.dtype, torch.float32)
    along = (x0 - x).mul_(g).sum(dtype=wide)
    scaled = g * d
    m.lerp_(scaled, w1)
    v.lerp_(scaled.square_(), w2)
    s.mul_(root_beta2).add_(g * share)
    x.mul_(decay).sub_((m * lr).div_(v.sqrt().add_(eps)))
    return torch.stack([along, s.abs().sum(dtype=wide)])


class Prodigy(RuleOptimizer):
    """Prodigy: Adam whose learning rate is an estimate, from below, of the distance from the start to the solution.

        m_{k+1} = β₁ m_k + (1 - β₁) d_k g_k
        v_{k+1} = β₂ v_k + (1 - β₂) d_k² g_k²
        r_{k+1} = √β₂ r_k + (1 - √β₂) γ_k d_k² ⟨g_k, x_0 - x_k⟩
        s_{k+1} = √β₂ s_k + (1 - √β₂) γ_k d_k² g_k
        d_{k+1} = max(d_k, r_{k+1} / ‖s_{k+1}‖₁)
        x_{k+1} = x_k - γ_k d_k (m_{k+1} / (√v_{k+1} + d_k ε) + λ x_k)

    Mishchenko, Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, 2023,
    https://arxiv.org/abs/2306.06101, Algorithm 4; λ is decoupled as in AdamW. There is one d for all groups: r and ‖s‖₁
    are sums over all of their parameters, each with the γ of its group. A step waits once for the device, to read them.

    Args:
        params: parameters or groups of them.
        lr: γ, the multiplier of the estimate, 0 or more, and the place for a schedule; 1 where AdamW's is 1e-3.
        betas: β₁ and β₂ of the moments, in [0, 1).
        eps: ε, added to √v / d, more than 0.
        weight_decay: λ, 0 or more; acts by γ d λ a step, and d becomes about AdamW's lr, so λ is AdamW's, or up to 10
            times that on small data.
        d0: the first estimate, more than 0; to be smaller than any distance that may be right.
        d_coef: multiplies the ratio that d is the maximum of, more than 0; 0.5 or 2 to go slower or faster.
        compiled: whether the rule is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range.
    """

    shardable: ClassVar[bool] = False
    rule = staticmethod(prodigy)
    buffers = ("exp_avg", "exp_avg_sq", "s", "p0")
    shared = ("betas", "d0", "d_coef")
    ranges: ClassVar = {
        "lr": NON_NEGATIVE,
        "betas": (FRACTION, FRACTION),
        "eps": POSITIVE,
        "weight_decay": NON_NEGATIVE,
        "d0": POSITIVE,
        "d_coef": POSITIVE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        *,
        compiled: bool | None = None,
        horizon: int | None = None,
    ) -> None:
        # What belongs to all parameters is kept in the groups, equal in each, so that a checkpoint has it.
        super().__init__(params, hyperparameters(locals()) | {"d": d0, "r": 0.0})

    def initial_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Zeros, and where the parameter is: for one whose gradients begin later, x_0 is where it is then."""
        return super().initial_state(p, group) | {"p0": p.detach().to(state_dtype(p), copy=True)}

    def coefficients(self, group: Group, t: int) -> Mapping[str, float]:
        """At every step those of the present d."""
        one = self.param_groups[0]
        d, root_beta2 = one["d"], math.sqrt(one["betas"][1])
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        return {
            "d": d,
            "w1": 1 - beta1,
            "w2": 1 - beta2,
            "root_beta2": root_beta2,
            # Over d0, and so is r: the ratio stays, and the squares of a small d are no longer lost in float32.
            "share": (1 - root_beta2) * lr * d * (d / one["d0"]),
            "lr": lr * d,
            "eps": d * group["eps"],
            "decay": 1 - lr * d * group["weight_decay"],
        }

    def advance(self, work: Sequence[tuple[Group, list[Tensor]]]) -> None:
        """Take the step with the present d, then estimate the next."""
        sums = [(group, f) for group, parameters in work for f in self.apply(prodigy, group, parameters)]
        if not sums:
            return
        sums += self._sums_of_others(work)
        one, like = self.param_groups[0], sums[0][1]
        d, root_beta2 = one["d"], math.sqrt(one["betas"][1])
        along, norm = 0.0, 0.0
        for (group, _), (a, n) in zip(sums, torch.stack([f.to(like) for _, f in sums]).tolist(), strict=True):
            along += float(group["lr"]) * a
            norm += n
        r = root_beta2 * one["r"] + (1 - root_beta2) * d * (d / one["d0"]) * along
        # Where no gradient has come yet, or lr has been 0 since the start, there is no ratio.
        d = max(d, one["d_coef"] * r / norm) if norm > 0 else d
        for group in self.param_groups:
            group.update(d=d, r=r)

    def _sums_of_others(self, work: Sequence[tuple[Group, list[Tensor]]]) -> Iterator[tuple[Group, Tensor]]:
        """What the rule would return for those without a gradient now that had one before: r remembers it, so s must.

        Their gradient counts as 0 in r and s, and nothing else of them changes.
        """
        here = {p for _, parameters in work for p in parameters}
        root_beta2 = math.sqrt(self.param_groups[0]["betas"][1])
        for group in self.param_groups:
            for p in group["params"]:
                if p not in here and p in self.state:
                    norm = self.state[p]["s"].mul_(root_beta2).abs().sum()
                    yield group, torch.stack([torch.zeros_like(norm), norm])

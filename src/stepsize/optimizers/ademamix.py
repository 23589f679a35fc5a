"""AdEMAMix: AdamW with a second, slow momentum."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import FRACTION, NON_NEGATIVE
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, check_number, hyperparameters

WARMUPS = ("alpha_warmup_steps", "beta3_warmup_steps")


def ademamix(
    p: Tensor,
    g: Tensor,
    m1: Tensor,
    m2: Tensor,
    v: Tensor,
    *,
    step: Any,
    slow: Any,
    eps: Any,
    w1: Any,
    w2: Any,
    w3: Any,
    decay: Any,
) -> None:
    """One step, where w is 1 - β, decay is 1 - ηλ, and the others are as in `AdEMAMix.coefficients`; in place."""
    m1.lerp_(g, w1)
    m2.lerp_(g, w3)
    v.lerp_(g.square(), w2)
    p.mul_(decay).sub_(m2.mul(slow).add_(m1).div_(v.sqrt().add_(eps)).mul_(step))


class AdEMAMix(RuleOptimizer):
    """AdEMAMix: gradients of tens of thousands of steps ago, in a slow momentum, beside those of the last ten.

        m₁_t = β₁ m₁_{t-1} + (1 - β₁) g_t,          m̂₁_t = m₁_t / (1 - β₁ᵗ)
        m₂_t = β₃(t) m₂_{t-1} + (1 - β₃(t)) g_t     without bias correction
        v_t  = β₂ v_{t-1} + (1 - β₂) g_t²,          v̂_t = v_t / (1 - β₂ᵗ)
        θ_t  = θ_{t-1} - η ((m̂₁_t + α(t) m₂_t) / (√v̂_t + ε) + λ θ_{t-1})

        α(t)  = min(t/T_α, 1) α
        β₃(t) = min(exp(1 / ((1 - t/T_β₃) / ln β₁ + (t/T_β₃) / ln β₃)), β₃): its half-life grows linearly from β₁'s

    Without these warmups the slow momentum may make the loss diverge early. T_α and T_β₃ are the whole run unless they
    are given. Where neither they nor the horizon are known, α and β₃ are constant: the algorithm has its schedulers
    as an option, and its authors' code leaves them off likewise. The horizon lies in the groups, and so in the state: a
    loaded one goes on with it, unless its "horizon" is set, as the recipe does where a resumed run is to be longer.

    Pagliardini, Ablin, Grangier, The AdEMAMix Optimizer: Better, Faster, Older, 2024,
    https://arxiv.org/abs/2409.03137, Algorithm 1.

    Args:
        params: parameters or groups of them.
        lr: η, 0 or more; like AdamW's, or lower where AdamW's is near the highest that is stable: towards the end of
            the warmups an update is up to 1 + α times as long as AdamW's.
        betas: β₁ of the fast momentum, β₂ of the squares, β₃ of the slow momentum, in [0, 1); β₁ and β₂ as for AdamW.
        alpha: α, how much the slow momentum counts against the fast one, 0 or more; 4 to 10 in the paper, 0 is AdamW.
        eps: ε, added to the root of v̂, 0 or more; as for AdamW.
        weight_decay: λ, decoupled, 0 or more; as for AdamW.
        alpha_warmup_steps: T_α in steps, 0 or more; None for the whole run, 0 for no warmup.
        beta3_warmup_steps: T_β₃ in steps, 0 or more; None for the whole run, 0 for no warmup.
        compiled: whether the rule is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range.
    """

    rule = staticmethod(ademamix)
    buffers = ("exp_avg", "exp_avg_slow", "exp_avg_sq")
    ranges: ClassVar = {
        "lr": NON_NEGATIVE,
        "betas": (FRACTION, FRACTION, FRACTION),
        "alpha": NON_NEGATIVE,
        "eps": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 8.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        alpha_warmup_steps: int | None = None,
        beta3_warmup_steps: int | None = None,
        *,
        compiled: bool | None = None,
        horizon: int | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Group) -> None:
        """Refuse hyperparameters that are out of range.

        Raises:
            ValueError: with the name and the value.
        """
        super().check(group)
        for name in WARMUPS:
            if group[name] is not None:
                check_number(name, group[name], NON_NEGATIVE)

    def coefficients(self, group: Group, t: int) -> Mapping[str, float]:
        """The rule's numbers at step t; numerator and denominator are both times √(1 - β₂ᵗ), which saves a pass."""
        lr, (beta1, beta2, beta3) = float(group["lr"]), group["betas"]
        t_alpha, t_beta3 = (group["horizon"] if group[name] is None else group[name] for name in WARMUPS)
        alpha = group["alpha"] * _progress(t, t_alpha)
        start, end = _life(beta1), _life(beta3)
        life = min(start + _progress(t, t_beta3) * (end - start), end)
        correction1, root = 1 - beta1**t, math.sqrt(1 - beta2**t)
        return {
            "step": lr * root / correction1,
            "slow": alpha * correction1,
            "eps": group["eps"] * root,
            "w1": 1 - beta1,
            "w2": 1 - beta2,
            "w3": -math.expm1(-1 / life) if life else 1.0,
            "decay": 1 - lr * group["weight_decay"],
        }


def _progress(t: int, warmup_steps: int | None) -> float:
    return min(t / warmup_steps, 1.0) if warmup_steps else 1.0


def _life(beta: float) -> float:
    """Steps in which a momentum forgets all but 1/e: proportional to its half-life; 0 where β is 0."""
    return -1 / math.log(beta) if beta else 0.0

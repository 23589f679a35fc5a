"""Lion: the sign of an interpolated momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import FRACTION, NON_NEGATIVE
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, hyperparameters


def lion(p: Tensor, g: Tensor, m: Tensor, *, lr: Any, w1: Any, w2: Any, decay: Any) -> None:
    """One step, where w is 1 - β and decay is 1 - ηλ; p and m in place."""
    c = m.lerp(g, w1)
    p.mul_(decay).sub_(c.sign_().mul_(lr))
    m.lerp_(g, w2)


class Lion(RuleOptimizer):
    """Lion: every coordinate moves by lr, in the direction of the sign of a momentum.

        c_t = β₁ m_{t-1} + (1 - β₁) g_t
        θ_t = θ_{t-1} - η (sign(c_t) + λ θ_{t-1})
        m_t = β₂ m_{t-1} + (1 - β₂) g_t

    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, https://arxiv.org/abs/2302.06675, Algorithm 2.

    A coordinate whose gradient was once not finite moves by its decay alone from then on: sign(NaN) is 0.

    Args:
        params: parameters or groups of them.
        lr: η, the distance every coordinate moves in a step, 0 or more; 3 to 10 times smaller than AdamW's.
        betas: β₁ of the direction and β₂ of the momentum, in [0, 1).
        weight_decay: λ, decoupled, 0 or more; 3 to 10 times larger than AdamW's, so that lr · weight_decay is the same.
        compiled: whether the rule is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range.
    """

    rule = staticmethod(lion)
    buffers = ("exp_avg",)
    ranges: ClassVar = {"lr": NON_NEGATIVE, "betas": (FRACTION, FRACTION), "weight_decay": NON_NEGATIVE}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        compiled: bool | None = None,
        horizon: int | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def coefficients(self, group: Group, t: int) -> Mapping[str, float]:
        """The same at every step."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        return {"lr": lr, "w1": 1 - beta1, "w2": 1 - beta2, "decay": 1 - lr * group["weight_decay"]}

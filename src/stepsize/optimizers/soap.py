"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import COUNT, FRACTION, NON_NEGATIVE, WHOLE
from stepsize.optimizers.adamw_rule import adamw, adamw_coefficients, displace
from stepsize.optimizers.decompositions import eigh, qr
from stepsize.optimizers.execution import execute
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, check_number, hyperparameters, state_dtype


class SOAP(RuleOptimizer):
    """SOAP: AdamW on coordinates in which the gradients of a layer are nearly uncorrelated.

        G'_t = Q_Lᵀ G_t Q_R
        M'_t = β₁ M'_{t-1} + (1 - β₁) G'_t,                 M̂_t = M'_t / (1 - β₁ᵗ)
        V_t  = β₂ V_{t-1} + (1 - β₂) G'_t ⊙ G'_t,           V̂_t = V_t / (1 - β₂ᵗ)
        W_t  = W_{t-1} - η (Q_L M̂_t / (√V̂_t + ε) Q_Rᵀ + λ W_{t-1})
        L_t  = β L_{t-1} + (1 - β) G_t G_tᵀ,                R_t = β R_{t-1} + (1 - β) G_tᵀ G_t
        at every k-th step:  Q_L = qr(L_t Q_L),  Q_R = qr(R_t Q_R)

    Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024, https://arxiv.org/abs/2409.11321,
    Algorithms 3 and 4, and the authors' code, https://github.com/nikhilvyas/SOAP, where the algorithm leaves it open.

    The first step is AdamW's; it gives the first basis, by an eigendecomposition, and M', V and the corrections begin
    anew after it, with t - 1 in the place of t. V is kept above the rounding that a rotation leaves in it.

    A tensor of more dimensions has a basis for each of them, as in that code: flattened, a 3x3 kernel of 512 channels
    would need a basis of 4608² instead of 512² and two of 3². M' is kept in the basis and rotated when the basis
    changes, which is the same and saves two products at each step. Vectors, scalars and dimensions that are too large
    are not rotated; a parameter that is not rotated at all takes AdamW's step.

    Args:
        params: parameters or groups of them.
        lr: η, 0 or more; AdamW's, or 1 to 3 times as large.
        betas: β₁ of the momentum and β₂ of the squares, in [0, 1); both averages are shorter than is usual for AdamW.
        shampoo_beta: β of L and R, in [0, 1); None for β₂.
        eps: ε, added to the root of V̂, 0 or more; as for AdamW.
        weight_decay: λ, decoupled, 0 or more; as for AdamW.
        precondition_frequency: k in steps, 1 or more, counted from the first step on; a refresh costs more than a step.
        max_precondition_dim: largest dimension that is rotated, 0 or more; a rotated dimension of n keeps 2 n² numbers.
        precondition_1d: whether vectors are rotated, too.
        compiled: whether the elementwise part is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range.
    """

    shardable: ClassVar[bool] = False
    rule = staticmethod(adamw)
    buffers = ("exp_avg", "exp_avg_sq")
    ranges: ClassVar = {
        "lr": NON_NEGATIVE,
        "betas": (FRACTION, FRACTION),
        "eps": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "precondition_frequency": COUNT,
        "max_precondition_dim": WHOLE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        precondition_1d: bool = False,
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
        if group["shampoo_beta"] is not None:
            check_number("shampoo_beta", group["shampoo_beta"], FRACTION)

    def initial_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Zeros, and the identity as the basis of the first step."""
        dims = _rotated(p, group)
        if not dims:
            return super().initial_state(p, group)
        dtype = state_dtype(p)
        state = {name: p.new_zeros(p.shape, dtype=dtype) for name in self.buffers}
        for i in dims:
            state[f"factor_{i}"] = p.new_zeros(p.shape[i], p.shape[i], dtype=dtype)
            state[f"basis_{i}"] = torch.eye(p.shape[i], dtype=dtype, device=p.device)
        return state

    def coefficients(self, group: Group, t: int) -> Mapping[str, float]:
        """Those of AdamW."""
        return adamw_coefficients(float(group["lr"]), group["betas"], group["eps"], group["weight_decay"], t)

    def advance(self, work: Sequence[tuple[Group, list[Tensor]]]) -> None:
        """AdamW where nothing is rotated; elsewhere its step in the basis, and then what changes the basis."""
        new: list[dict[str, Any]] = []
        due: list[dict[str, Any]] = []
        for group, parameters in work:
            rotated = [p for p in parameters if _rotated(p, group)]
            self.apply(adamw, group, [p for p in parameters if not _rotated(p, group)])
            compiled = bool(rotated) and self.compiles(rotated[0].device, group)
            for p in rotated:
                state = self.counted(p, group)
                self._take(p, group, compiled)
                if state["step"] == 1:
                    new.append(state)
                elif (state["step"] - 1) % group["precondition_frequency"] == 0:
                    due.append(state)
        _first_bases(new)
        _next_bases(due)

    def _take(self, p: Tensor, group: Group, compiled: bool) -> None:
        state = self.state[p]
        # The basis comes from the first gradient, and in its own basis that would be diagonal: all else in it is
        # rounding, which Adam would make as large as the rest. The authors' code takes no first step; here it is
        # Adam's in the basis that is there, the identity, and as there the averages begin with the second gradient.
        numbers = self.coefficients(group, max(state["step"] - 1, 1))
        assert p.grad is not None
        g = p.grad.to(state["exp_avg"].dtype)
        bases = _bases(state, p.ndim)
        rotated = project(g, bases).contiguous()
        step = torch.zeros_like(rotated)
        if state["step"] > 1:
            _keep_above_rounding(state["exp_avg_sq"], torch.linalg.vector_norm(rotated, torch.inf))
        tensors = [step, rotated, state["exp_avg"], state["exp_avg_sq"]]
        execute(adamw, [tensors], numbers, compiled=compiled, workspaces={})
        displace(p, project(step, [None if q is None else q.mT for q in bases]), numbers["decay"])
        beta = group["betas"][1] if group["shampoo_beta"] is None else group["shampoo_beta"]
        for i, q in enumerate(bases):
            if q is not None:
                rows = g.movedim(i, 0).reshape(len(q), -1)
                state[f"factor_{i}"].addmm_(rows, rows.mT, beta=beta, alpha=1 - beta)


def project(x: Tensor, bases: Sequence[Tensor | None]) -> Tensor:
    """Qᵀ x along each dimension that has a basis, (n, n): Q_Lᵀ X Q_R for a matrix."""
    for q in bases:
        # The first dimension becomes the last; after all of them they stand in their order again.
        x = x.movedim(0, -1) if q is None else torch.tensordot(x, q, ([0], [0]))
    return x


def _rotated(p: Tensor, group: Group) -> list[int]:
    """The dimensions that have a basis; one of size 1 needs none."""
    if p.ndim < 2 and not group["precondition_1d"]:
        return []
    return [i for i, n in enumerate(p.shape) if 1 < n <= group["max_precondition_dim"]]


def _bases(state: Mapping[str, Any], ndim: int) -> list[Tensor | None]:
    return [state.get(f"basis_{i}") for i in range(ndim)]


def _dims(state: Mapping[str, Any]) -> list[int]:
    return [i for i in range(state["exp_avg"].ndim) if f"basis_{i}" in state]


def _first_bases(states: Sequence[dict[str, Any]]) -> None:
    """Eigenvectors, from the largest eigenvalue to the smallest; averages in the basis begin anew."""
    where = [(state, i) for state in states for i in _dims(state)]
    for (state, i), found in zip(where, eigh([s[f"factor_{i}"] for s, i in where]), strict=True):
        if found is not None:
            state[f"basis_{i}"] = found[1].flip(-1).contiguous()
    for state in states:
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()


def _next_bases(states: Sequence[dict[str, Any]]) -> None:
    """A step of the power iteration and QR; V follows the order of the columns, M' is rotated."""
    where = [(state, i) for state in states for i in _dims(state)]
    powers = []
    for state, i in where:
        q = state[f"basis_{i}"]
        power = state[f"factor_{i}"] @ q
        # Not in Algorithm 4 but in the authors' code: QR keeps the order that is put in, so it is put right.
        order = (q * power).sum(0).argsort(descending=True)
        state["exp_avg_sq"] = state["exp_avg_sq"].index_select(i, order)
        powers.append(power[:, order])
    for (state, i), q in zip(where, qr(powers), strict=True):
        change = state[f"basis_{i}"].mT @ q
        state["exp_avg"] = torch.movedim(torch.movedim(state["exp_avg"], i, -1) @ change, -1, i).contiguous()
        state[f"basis_{i}"] = q.contiguous()
    for state in states:
        v = state["exp_avg_sq"]
        _keep_above_rounding(v, v.amax().sqrt())


def _keep_above_rounding(v: Tensor, largest: Tensor) -> None:
    """Keep V above what a rotation leaves of numbers so large in a coordinate without gradient.

    That is rounding. Adam would divide it by its own root, and make it as large as the rest.
    """
    v.clamp_(min=(8 * torch.finfo(v.dtype).eps * largest).square())

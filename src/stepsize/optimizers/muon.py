"""Muon: orthogonalised momentum for hidden matrices, AdamW for all other parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import COUNT, FRACTION, NON_NEGATIVE, POSITIVE
from stepsize.errors import suggestion
from stepsize.optimizers.adamw_rule import adamw, adamw_coefficients
from stepsize.optimizers.orthogonalize import COEFFICIENTS, Triple, iterations, native_dtype, orthogonalize
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, hyperparameters, state_dtype

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# What matrices of one shape must have in common, besides lr, to be orthogonalised together.
MUON = ("weight_decay", "momentum", "nesterov", "ns_coefficients", "ns_steps", "ns_dtype", "eps", "adjust_lr_fn")
# In elements: a larger batch is cut. Its temporaries take up to 16 bytes an element, and on a CPU leave the cache.
LARGEST_BATCH = {"cpu": 2**18}
LARGEST_BATCH_ELSEWHERE = 2**24


def adjustment(adjust_lr_fn: str, rows: int, columns: int) -> float:
    """What multiplies lr for a matrix of this shape."""
    if adjust_lr_fn == "original":
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class Muon(RuleOptimizer):
    """Muon: a matrix moves along its momentum with all singular values made 1; other parameters follow AdamW.

        B_t = μ B_{t-1} + (1 - μ) G_t
        O_t = orthogonalize((1 - μ) G_t + μ B_t)   by Newton-Schulz; of B_t without Nesterov
        W_t = (1 - ηλ) W_{t-1} - η s O_t

        s = 0.2 √max(rows, columns)         adjust_lr_fn="match_rms_adamw"
        s = √max(1, rows / columns)         adjust_lr_fn="original"

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon/; match_rms_adamw and the decay: Liu et al., Muon is Scalable for LLM
    Training, 2025, https://arxiv.org/abs/2502.16982; Polar Express: Amsel et al., 2025,
    https://arxiv.org/abs/2505.16932. They write B_t = μ B_{t-1} + G_t; the length of B_t is of no account, and this
    form, which torch and Jordan's code have, keeps the length of a gradient.

    What is a matrix? A parameter of two or more dimensions, as rows × all others: a convolution is output channels ×
    input channels and kernel. A group may say otherwise by rule="adamw", and should for embeddings and the output layer
    (`param_groups` of the recipe does); rule="muon" insists. Matrices of one shape and of equal settings, from whatever
    groups, are orthogonalised in one batched product.

    Args:
        params: parameters or groups of them, at least one of them a matrix.
        lr: η, 0 or more; AdamW's with match_rms_adamw, by which a step has the size of AdamW's, and about 0.02 with
            original.
        weight_decay: λ, decoupled, 0 or more, for both rules; AdamW's.
        momentum: μ, in [0, 1).
        nesterov: look ahead along the momentum.
        ns_coefficients: polynomials of the iteration: "quintic", Jordan's; "polar_express", closer to 1 in as many
            steps; or a list of triples (a, b, c), the last of which repeats.
        ns_steps: iterations, 1 or more.
        ns_dtype: of the iteration: "bfloat16", "float32", or None for the first where the hardware multiplies it and
            the second elsewhere; float64 parameters then keep float64.
        eps: added to the norm that a matrix is divided by before the iteration, above 0.
        adjust_lr_fn: "match_rms_adamw" or "original".
        adamw_lr_ratio: AdamW's lr is this times η, so that it follows a schedule, layer decay and a search over η; 0 or
            more; with original about 0.015.
        adamw_betas: β₁ and β₂ of AdamW, in [0, 1).
        adamw_eps: ε of AdamW, 0 or more.
        compiled: whether AdamW's rule is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range, no parameter is a matrix, or rule="muon" was said of a vector.
    """

    shardable: ClassVar[bool] = False
    rules: ClassVar = ("muon", "adamw")  # of hidden matrices, and of all other parameters
    # What the base applies to the latter.
    rule = staticmethod(adamw)
    buffers = ("exp_avg", "exp_avg_sq")
    ranges: ClassVar = {
        "lr": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "momentum": FRACTION,
        "ns_steps": COUNT,
        "eps": POSITIVE,
        "adamw_lr_ratio": NON_NEGATIVE,
        "adamw_betas": (FRACTION, FRACTION),
        "adamw_eps": NON_NEGATIVE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: str | Sequence[Triple] = "quintic",
        ns_steps: int = 5,
        ns_dtype: str | None = None,
        eps: float = 1e-7,
        adjust_lr_fn: str = "match_rms_adamw",
        adamw_lr_ratio: float = 1.0,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        compiled: bool | None = None,
        horizon: int | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()) | {"rule": None})
        if not any(is_matrix(p, group) for group in self.param_groups for p in group["params"]):
            raise ValueError(
                "Muon has no matrix to orthogonalise: every parameter has fewer than two dimensions or rule="
                "'adamw'; take AdamW for them"
            )

    def check(self, group: Group) -> None:
        """Refuse hyperparameters that are out of range, and words that are unknown."""
        super().check(group)
        for name, words in (
            ("rule", (None, *self.rules)),
            ("ns_dtype", (None, *DTYPES)),
            ("adjust_lr_fn", ("match_rms_adamw", "original")),
        ):
            if group[name] not in words:
                raise ValueError(f"{name} must be one of {', '.join(map(str, words))}, got {group[name]!r}")
        coefficients = group["ns_coefficients"]
        if isinstance(coefficients, str):
            if coefficients not in COEFFICIENTS:
                raise ValueError(
                    f"ns_coefficients={coefficients!r}: there is no such word; {suggestion(coefficients, COEFFICIENTS)}"
                )
        elif not (isinstance(coefficients, Sequence) and coefficients and all(map(_is_triple, coefficients))):
            raise ValueError(f"ns_coefficients must be a word or a list of triples, got {coefficients!r}")

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; rule="muon" takes no vectors."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        vectors = [tuple(p.shape) for p in group["params"] if group["rule"] == "muon" and p.ndim < 2]
        if vectors:
            self.param_groups.pop()
            raise ValueError(f"rule='muon' is for matrices; a parameter of its group has the shape {vectors[0]}")

    def initial_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Zeros: a momentum for a matrix, AdamW's moments for all others."""
        if is_matrix(p, group):
            return {"momentum_buffer": torch.zeros_like(p, dtype=state_dtype(p))}
        return super().initial_state(p, group)

    def coefficients(self, group: Group, t: int) -> Mapping[str, float]:
        """AdamW's, at its part of the group's lr."""
        lr = float(group["lr"]) * group["adamw_lr_ratio"]
        return adamw_coefficients(lr, group["adamw_betas"], group["adamw_eps"], group["weight_decay"], t)

    def advance(self, work: Sequence[tuple[Group, list[Tensor]]]) -> None:
        """Orthogonalise the matrices of all groups, those that are alike together, and apply AdamW to the others."""
        alike: dict[tuple[Any, ...], tuple[Group, list[Tensor]]] = {}
        for group, parameters in work:
            settings = (float(group["lr"]), *(str(group[name]) for name in MUON))
            others = []
            for p in parameters:
                if is_matrix(p, group):
                    alike.setdefault((p.device, p.dtype, p.shape, *settings), (group, []))[1].append(p)
                else:
                    others.append(p)
            self.apply(adamw, group, others)
        for group, matrices in alike.values():
            p = matrices[0]
            most = max(1, LARGEST_BATCH.get(p.device.type, LARGEST_BATCH_ELSEWHERE) // p.numel())
            for first in range(0, len(matrices), most):
                self._advance_matrices(group, matrices[first : first + most])

    def _advance_matrices(self, group: Group, parameters: list[Tensor]) -> None:
        """One step of matrices that are alike in shape, device, dtype and settings."""
        gradients = [p.grad.to(state_dtype(p)) for p in parameters if p.grad is not None]
        momenta = [self.counted(p, group)["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        direction = torch.stack(directions).flatten(2) if len(directions) > 1 else directions[0].flatten(1)[None]
        p, half = parameters[0], parameters[0].dtype.itemsize == 2
        if group["ns_dtype"] is not None:
            dtype = DTYPES[group["ns_dtype"]]
        else:
            dtype = p.dtype if p.dtype == torch.float64 else native_dtype(p.device.type)
        polynomials = iterations(group["ns_coefficients"], group["ns_steps"])
        direction = orthogonalize(direction, polynomials, dtype, group["eps"])

        lr, scale = float(group["lr"]), adjustment(group["adjust_lr_fn"], *direction.shape[1:])
        wide = [p.float() for p in parameters] if half else parameters  # it rounds once, at the end
        torch._foreach_mul_(wide, 1 - lr * group["weight_decay"])
        moves = direction.to(wide[0].dtype).view(-1, *p.shape).unbind()
        torch._foreach_add_(wide, moves, alpha=-lr * scale)
        if half:
            torch._foreach_copy_(parameters, wide)


def is_matrix(p: Tensor, group: Group) -> bool:
    """Whether a parameter of a group is orthogonalised."""
    return p.ndim >= 2 and group["rule"] != "adamw"


def _is_triple(found: Any) -> bool:
    is_three = isinstance(found, Sequence) and len(found) == 3
    return is_three and all(isinstance(x, (int, float)) and math.isfinite(x) for x in found)

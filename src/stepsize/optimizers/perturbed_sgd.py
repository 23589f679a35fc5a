"""SGD with noise that leaves saddle points."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stepsize.bounds import NON_NEGATIVE, WHOLE
from stepsize.errors import suggestion
from stepsize.optimizers.counted_normal import (
    BLOCK,
    WIDTH,
    Key,
    Numbering,
    Pair,
    in_chunks,
    lanes,
    normal,
    pair,
    spread,
)
from stepsize.optimizers.execution import Coefficient
from stepsize.optimizers.rule_optimizer import Group, RuleOptimizer, check_number, hyperparameters

NOISES = ("isotropic", "ball")


def sgd(
    x: Tensor | Pair, g: Tensor | Pair, *, down: Any, decay: Any, scale: Any, measured: bool, key: Any = None
) -> Tensor | None:
    """One step of SGD, where down is -η, and with a key scale times normal noise; x in place.

    Compiled, x and g may be halves of blocks, which share a draw: most of a step's time goes into the draws.

    Returns:
        ‖g + λx‖² if that is measured, which is for steps without noise.
    """
    if isinstance(x, Tensor) and isinstance(g, Tensor) and isinstance(down, float):
        g = torch.add(g, x, alpha=decay)  # eager: with alpha it rounds once, as torch's SGD does
        x.add_(g, alpha=down)
        if key and scale:
            for part, z in in_chunks(x, key):
                part.add_(z, alpha=scale)
        return _square(g) if measured else None
    square = None
    for part, h, noise in _parts(x, g, key, scale):
        h = h + part * decay
        part.add_(h * down)
        if noise is not None:
            part.add_(noise)
        square = _square(h) if measured else None  # without noise, and then there is one part
    return square


def _parts(
    x: Tensor | Pair, g: Tensor | Pair, key: Sequence[Tensor] | None, scale: Tensor
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Parts of a parameter, their gradients and their noise."""
    if isinstance(x, Tensor) and isinstance(g, Tensor):
        if key is None:
            return [(x, g, None)]
        numbers = torch.arange(x.numel(), dtype=torch.int32, device=x.device) + key[3]
        return [(x, g, normal(numbers, key, x.dtype, scale, fused=True))]
    assert key is not None
    assert x[0].shape[1] == WIDTH  # said to the compiler, which then makes no code for what is left of a row
    first = torch.arange(x[0].shape[0], dtype=torch.int32, device=x[0].device) * BLOCK + key[3]
    noise = pair(spread(first, key)[:, None] + lanes(x[0].device), key, x[0].dtype, scale, fused=True)
    return list(zip(x, g, noise, strict=True))


def _square(g: Tensor) -> Tensor:
    return g.square().sum(dtype=torch.promote_types(g.dtype, torch.float32))


class PerturbedSGD(RuleOptimizer):
    """Perturbed SGD: gradient descent with noise, so that it leaves saddle points, where the gradient vanishes.

        isotropic:  x_{t+1} = x_t - η (g_t + ξ_t),  ξ_t ~ N(0, (r²/d) I)
        ball:       x_{t+1} = x_t - η g_t + ξ_t,    ξ_t uniform in the ball of radius r around 0
                    if ‖g_t‖ ≤ g_thres and t - t_noise > t_thres, then t_noise = t;  else ξ_t = 0

    Isotropic: Jin, Netrapalli, Ge, Kakade, Jordan, On Nonconvex Optimization for Machine Learning: Gradients,
    Stochasticity, and Saddle Points, 2019, https://arxiv.org/abs/1902.04811, Algorithms 1 and 2. Ball: Jin, Ge,
    Netrapalli, Kakade, Jordan, How to Escape Saddle Points Efficiently, 2017, https://arxiv.org/abs/1703.00887,
    Algorithm 2, without its test of when to end. That takes the gradient at x_t + ξ_t; here it is the next step's.

    d counts the coordinates that have a gradient and a group whose lr is not 0; ‖g_t‖ is over all that have a gradient,
    and what weight decay adds to g_t is part of it.
    ξ_t is a function of (seed, t) and of a coordinate's number, whatever else draws random numbers: all processes of a
    run draw the same, so does a resumed one, and a compiled one the same to 4e-5 of a standard deviation. A key drawn
    from (seed, t) and the number are hashed to two words, and these make a normal number: pcg3d and Box-Muller, see
    `counted_normal`. Numbers are counted through all groups, to 2³², and then begin anew; a perturbation in the ball
    has a key for each parameter. With noise=ball a step waits for the device, once t_thres steps have passed without
    noise.

    Args:
        params: parameters or groups of them.
        lr: η, 0 or more; 100 times AdamW's. At 0 a group takes no noise.
        weight_decay: λ, 0 or more, coupled into the gradient.
        noise: "isotropic", each step, or "ball", where the gradient has been small.
        radius: r, 0 or more; of isotropic the norm of the noise in the gradient, of ball the longest way it moves x.
        threshold: g_thres of ball, 0 or more.
        interval_steps: t_thres of ball, 0 or more steps for a perturbation to show what it leads to.
        seed: of the noise, 0 or more.
        compiled: whether the rule is compiled; None chooses by device, size and horizon.
        horizon: optimizer steps of the whole run, where known.

    Raises:
        ValueError: a value is out of its range.
    """

    shardable: ClassVar[bool] = False
    saving: ClassVar[float] = 10.0  # eagerly, each operation of the draw is a pass over memory
    rule = staticmethod(sgd)
    shared = ("noise", "radius", "threshold", "interval_steps", "seed")
    ranges: ClassVar = {
        "lr": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "radius": NON_NEGATIVE,
        "threshold": NON_NEGATIVE,
        "interval_steps": WHOLE,
        "seed": WHOLE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        weight_decay: float = 0.0,
        noise: Literal["isotropic", "ball"] = "isotropic",
        radius: float = 0.01,
        threshold: float = 0.001,
        interval_steps: int = 100,
        seed: int = 0,
        *,
        compiled: bool | None = None,
        horizon: int | None = None,
    ) -> None:
        check_number("interval_steps", interval_steps, WHOLE)
        self._size, self._numbering, self._draw = 0, Numbering(), random.Random(0)  # of the step that is being taken
        # What belongs to all parameters is kept in the groups, equal in each, so that a checkpoint has it.
        super().__init__(params, hyperparameters(locals()) | {"t": 0, "t_noise": -interval_steps - 1})

    def check(self, group: Group) -> None:
        """Refuse hyperparameters that are out of range, and a word for a noise that there is not."""
        super().check(group)
        if group["noise"] not in NOISES:
            raise ValueError(f"noise: there is no {group['noise']}; {suggestion(str(group['noise']), NOISES)}")

    def coefficients(self, group: Group, t: int) -> Mapping[str, Coefficient]:
        """Of the step that `advance` takes; with a key where it is noisy."""
        one, lr = self.param_groups[0], float(group["lr"])
        isotropic = one["noise"] == "isotropic"
        noisy = isotropic and one["radius"] > 0
        return {
            "down": -lr,
            "decay": float(group["weight_decay"]),
            "scale": lr * one["radius"] / math.sqrt(max(self._size, 1)),
            "measured": not isotropic,
        } | ({"key": Key(_half(self._draw), _half(self._draw), self._numbering)} if noisy else {})

    def advance(self, work: Sequence[tuple[Group, list[Tensor]]]) -> None:
        """Take the step of SGD, isotropic noise with it; a perturbation in the ball comes after it."""
        one, moving = self.param_groups[0], [p for group, found in work for p in found if float(group["lr"]) > 0]
        t, t_noise = one["t"], one["t_noise"]
        self._size = sum(p.numel() for p in moving)
        self._numbering, squares = Numbering(), []
        for group, parameters in work:  # two groups alike are one: their coordinates are counted on, with the same key
            self._draw = random.Random(f"{one['seed']} {t}")
            squares += self.apply(sgd, group, parameters)
        if not moving:
            return
        due = one["noise"] == "ball" and t - t_noise > one["interval_steps"]
        if due and _root_of_sum(squares).item() <= one["threshold"]:
            t_noise = t
            self._perturb(moving, one["radius"], random.Random(f"{one['seed']} {t}"))
        for group in self.param_groups:
            group.update(t=t + 1, t_noise=t_noise)

    def _perturb(self, moving: Sequence[Tensor], radius: float, draw: random.Random) -> None:
        """Add noise that is uniform in the ball: a direction that favours none, a length that favours no part of it."""
        drawn = [_drawn(p, Key(_half(draw), _half(draw), Numbering())) for p in moving]
        length = radius * draw.random() ** (1 / self._size)
        scale = length / _root_of_sum([z.square().sum() for z in drawn])
        for p, z in zip(moving, drawn, strict=True):
            p.add_(z * scale.to(z))


def _half(draw: random.Random) -> int:
    """Half of a key: an odd number."""
    return 2 * draw.getrandbits(31) + 1 - 2**31


def _drawn(p: Tensor, key: Key) -> Tensor:
    """Normal numbers in the shape of a parameter."""
    flat = p.new_empty(p.numel())
    return torch.cat([z for _, z in in_chunks(flat, key.at(0))]).view(p.shape)


def _root_of_sum(squares: Sequence[Tensor]) -> Tensor:
    return torch.stack([s.to(squares[0]) for s in squares]).sum().sqrt()

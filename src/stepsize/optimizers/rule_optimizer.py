"""What our optimizers share: the loop over groups and parameters, the closure, lazy state, the execution."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from stepsize.bounds import COUNT, Interval
from stepsize.optimizers.compilation import pays
from stepsize.optimizers.execution import Coefficient, Rule, execute

Group = dict[str, Any]


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of a parameter's state: its own, or float32 where that has 16 bits."""
    return torch.promote_types(p.dtype, torch.float32)


def check_number(name: str, value: float | Tensor, interval: Interval) -> None:
    """Refuse a hyperparameter that is out of its range.

    Raises:
        ValueError: with the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got {value.numel()}")
    interval.check(name, float(value))
    if interval.whole and isinstance(value, float | Tensor):  # 5.0, where a loop counts to it
        raise ValueError(f"{name} must be a whole number, got {value!r}")


def hyperparameters(arguments: Mapping[str, Any]) -> Group:
    """An optimizer's defaults: the arguments of its `__init__`, as `locals()` has them in its first line."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


class RuleOptimizer(Optimizer, ABC):
    """A torch optimizer whose step is a rule: a plain function of a parameter, its gradient, its state and numbers.

    A subclass says four things: the rule, which state a parameter has, which values of the hyperparameters are allowed,
    and which numbers the rule takes at step t.

        p, g, *state: tensors alike in shape; the rule changes p and the state in place and leaves g as it is.

    The state of a parameter begins with its first gradient, and its steps are counted from there as an int,
    `state[p]["step"]`. It has 32 bits at least: in 16, a slow average would stand still between two numbers.

    Groups hold every hyperparameter, and two more that are no part of the algorithm: `compiled` (None leaves the choice
    to `compilation.pays`) and `horizon`, the steps of the whole run.
    """

    rule: ClassVar[Rule]
    buffers: ClassVar[tuple[str, ...]] = ()  # names of the state, in the order in which the rule takes it
    shared: ClassVar[tuple[str, ...]] = ()  # names of hyperparameters that are one number for all groups
    saving: ClassVar[float] = 1.0  # how many times as much compiling saves as it does for most
    shardable: ClassVar[bool] = True  # False where norms or products of whole parameters are taken
    ranges: ClassVar[Mapping[str, Interval | tuple[Interval, ...]]]  # of the hyperparameters, pairs item by item

    def check(self, group: Group) -> None:
        """Refuse hyperparameters that are out of `ranges`.

        Raises:
            ValueError: with the name and the value.
        """
        if group["compiled"] not in (None, True, False):
            raise ValueError(f"compiled must be True, False or None, got {group['compiled']!r}")
        if group["horizon"] is not None:
            check_number("horizon", group["horizon"], COUNT)
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.annotation is bool and not isinstance(group[name], bool):
                raise ValueError(f"{name} must be True or False, got {group[name]!r}")
        for name, interval in self.ranges.items():
            value = group[name]
            if isinstance(interval, Interval):
                check_number(name, value, interval)
            elif not isinstance(value, Sequence) or len(value) != len(interval):
                raise ValueError(f"{name} must be {len(interval)} numbers, got {value}")
            else:
                for index, (item, of_item) in enumerate(zip(value, interval, strict=True)):
                    check_number(f"{name}[{index}]", item, of_item)

    @abstractmethod
    def coefficients(self, group: Group, t: int) -> Mapping[str, Coefficient]:
        """The keywords of the rule at step t = 1, 2, ...: Python numbers, and words that choose between formulas."""

    def initial_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """The state before the first step: zeros unless a subclass says otherwise."""
        return {name: torch.zeros_like(p, dtype=state_dtype(p)) for name in self.buffers}

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; its own hyperparameters are checked like the defaults.

        Raises:
            ValueError: a hyperparameter is out of range, or differs where all groups share it, or a parameter is
                complex; nothing has been added then.
        """
        self.check(self.defaults | param_group)
        first = self.param_groups[0] if self.param_groups else self.defaults | param_group
        for name in self.shared:
            value = param_group.get(name, self.defaults[name])
            if value != first[name]:
                raise ValueError(f"{name} is one for all groups, {first[name]} in the first, got {value}")
        self.__dict__.pop("_sizes", None)
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError(f"{type(self).__name__} has no complex form; view_as_real gives real parameters")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step; returns what the closure returned.

        Raises:
            RuntimeError: a gradient is sparse; nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.advance([(group, self.ready(group)) for group in self.param_groups])
        return loss

    def advance(self, work: Sequence[tuple[Group, list[Tensor]]]) -> None:
        """Take the step of all groups; `work` has each with its parameters that have a gradient."""
        for group, parameters in work:
            self.apply(type(self).rule, group, parameters)

    def ready(self, group: Group) -> list[Tensor]:
        """The parameters of a group that have a gradient."""
        parameters = [p for p in group["params"] if p.grad is not None and p.numel() > 0]
        if any(p.grad.layout != torch.strided for p in parameters):
            raise RuntimeError(f"{type(self).__name__} takes dense gradients only; make the layer with sparse=False")
        return parameters

    def counted(self, p: Tensor, group: Group) -> dict[str, Any]:
        """The state of a parameter at the step that begins: made with its first gradient, its steps counted on."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state.update(step=0, **self.initial_state(p, group))
        state["step"] += 1
        return state

    def compiles(self, device: torch.device, group: Group) -> bool:
        """Whether a rule is compiled for parameters of a group that lie on a device; one compiled rule serves all."""
        if group["compiled"] is not None:
            return bool(group["compiled"])
        sizes: dict[torch.device, int] = self.__dict__.setdefault("_sizes", {})
        if device not in sizes:
            everything = [p for group in self.param_groups for p in group["params"]]
            sizes[device] = sum(p.numel() for p in everything if p.device == device)
        return pays(device, sizes[device], group["horizon"], self.saving)

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = [*self.defaults] if "defaults" in self.__dict__ else [*state["defaults"]]
        super().__setstate__(state)
        for group in self.param_groups:  # saved before a hyperparameter was added
            for name in known:
                group.setdefault(name, self.defaults[name])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; state has 32 bits, where torch gives it the parameter's 16."""
        loaded: list[dict[str, Any]] = []  # as the other hooks leave it
        noting = self.register_load_state_dict_pre_hook(lambda _, final: loaded.append(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            noting.remove()
        for group, saved in zip(self.param_groups, loaded[0]["param_groups"], strict=True):
            for p, key in zip(group["params"], saved["params"], strict=True):
                dtype = state_dtype(p)
                for name, value in loaded[0]["state"].get(key, {}).items():
                    if isinstance(value, Tensor) and dtype != p.dtype:
                        self.state[p][name] = value.to(p.device, dtype, copy=True)

    def apply(self, rule: Rule, group: Group, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Apply a rule to parameters of a group; returns what the rule returned for each, or for each batch of them.

        Args:
            rule: takes this class's buffers and coefficients.
            group: where the parameters are from.
            parameters: with a gradient; their steps are counted on.
        """
        alike: dict[tuple[Any, ...], list[list[Tensor]]] = {}
        for p in parameters:
            state = self.counted(p, group)
            tensors = [p, p.grad, *[state[name] for name in self.buffers]]
            alike.setdefault((p.device, p.dtype, state["step"]), []).append(tensors)
        workspaces = self.__dict__.setdefault("_workspaces", {})  # neither pickled nor copied: made anew when needed
        returned = []
        for (device, _, t), work in alike.items():
            compiled = self.compiles(device, group)
            numbers = self.coefficients(group, t)
            returned += execute(rule, work, numbers, compiled=compiled, workspaces=workspaces)
        return returned

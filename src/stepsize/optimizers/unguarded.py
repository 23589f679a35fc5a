"""What torch.compile makes of a function, called past its guards where they have been passed before."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

Made = Callable[..., Sequence[Tensor]]


class Unguarded:
    """A function through torch.compile, whose guards are checked once for each form of its arguments.

    Guards find out, before each call, whether what has been compiled serves these arguments: 11 µs on a CPU, in which a
    compiled rule does the work of 40 000 parameters (`scripts/bench_guards.py`). What they look at follows from the
    form here, so what they found for a form is remembered, as long as the process lives, and called as torch.compile
    calls what a custom backend returns: with the inputs of its graph. What torch is told about compiling, by
    `torch.compiler.set_stance` or a config, is heard at the first call of a form only.

    Args:
        function: of some sequences of tensors; returns a tensor or None.
        constants: tensors that it reads besides its arguments.
        options: of torch.compile's default backend.

    Attributes:
        begun: whether it has been compiled; for its users, who may begin with sizes that the compiler takes as a hint.
    """

    def __init__(
        self, function: Callable[..., Tensor | None], constants: Sequence[Tensor], options: Mapping[str, Any]
    ) -> None:
        self._guarded = torch.compile(function, fullgraph=True, dynamic=True, backend=self._compile)
        self._constants, self._options = constants, options
        self.begun = False
        self._known: dict[Hashable, tuple[Made, list[int], list[int]]] = {}
        self._calls: list[tuple[Made, Sequence[Any]]] = []  # of graphs, in one call of the function

    def __call__(self, form: Hashable, *arguments: Sequence[Tensor]) -> Tensor | None:
        """Call the function.

        Args:
            form: another one where any argument's size, stride, dtype or device is another. No argument needs a
                gradient, and no two overlap in memory.
            arguments: of the function.
        """
        form = (form, *map(len, arguments))
        if form not in self._known:
            return self._meet(form, arguments)
        made, numbers, places = self._known[form]
        given = [*self._constants, *chain(*arguments), *numbers]
        found = made(*[given[i] for i in places])
        return found[0] if found else None  # a full graph returns what the function does

    def _meet(self, form: Hashable, arguments: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """Call the function with its guards, and remember what served the form."""
        # Without their bases: torch compiles anew for each number of dimensions of what a tensor is a view of.
        bare = [[t.data for t in tensors] for tensors in arguments]
        try:
            returned = self._guarded(*bare)
            for made, inputs in self._calls:  # none where torch was told to run it eagerly
                tensors = [*self._constants, *chain(*bare)]
                numbers = [n for t in tensors for n in (*t.shape, *t.stride())]
                places = [i for x in inputs for i in _places([*tensors, *numbers], x)]
                if len(places) == len(inputs):
                    self._known[form] = made, numbers, places
        finally:
            self._calls.clear()  # which hold the inputs
        return returned

    def _compile(self, graph: Any, inputs: Sequence[Any]) -> Made:
        """A backend of torch.compile: the default one, noting with what it is called."""
        inductor: Any = torch._dynamo.lookup_backend("inductor")
        made: Made = inductor(graph, inputs, config_patches=self._options)

        def note(*inputs: Any) -> Sequence[Tensor]:
            self._calls.append((made, inputs))
            return made(*inputs)

        return note


def _places(given: Sequence[Any], x: Any) -> list[int]:
    """Where a graph's input, a tensor or a number, stands among what was given: one place, none if it is not there."""
    return [i for i, y in enumerate(given) if y is x or (type(x) is type(y) is int and x == y)][:1]

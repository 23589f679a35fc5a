"""What a callback may offer beside Lightning's hooks; one that has the method has the part."""

from typing import Any, Protocol, runtime_checkable

import lightning as L


@runtime_checkable
class ActsOnSteps(Protocol):
    """Acts between an optimizer step and the validation that may follow, with all counters at the step taken."""

    def on_step_end(self, trainer: L.Trainer) -> None:
        """Called after each optimizer step, once its last batch has ended."""


@runtime_checkable
class KnowsItsProcess(Protocol):
    """Has state that differs from process to process; Lightning itself keeps that of the first alone."""

    def process_state(self) -> dict[str, Any]:
        """Return the state of this process: plain data and tensors on the CPU."""

    def load_process_state(self, state: dict[str, Any]) -> None:
        """Take over what `process_state` returned, in the process of the same rank, once training has started."""


@runtime_checkable
class Watches(Protocol):
    """Knows whether what has been trained is worth keeping."""

    def look(self, trainer: L.Trainer) -> None:
        """Called before a checkpoint is written; raises where it must not be."""

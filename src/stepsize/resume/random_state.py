"""The random state of a process as plain data: Python's, NumPy's, torch's, and that of the device that trains."""

import random
from typing import Any

import numpy as np
import torch


def current(device: torch.device) -> dict[str, Any]:
    """What the generators of this process would draw next, such that `torch.load(weights_only=True)` reads it.

    Args:
        device: whose generator is asked too, where it is not the CPU.
    """
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    state = {
        "python": [version, list(words), gauss],
        # torch has no operations on uint32, but keeps it; int64 says the same in every version.
        "numpy": {**numpy, "state": {**numpy["state"], "key": torch.from_numpy(numpy["state"]["key"].astype("int64"))}},
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = _of(device).get_rng_state() if device.type == "mps" else _of(device).get_rng_state(device)
    return state


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Let the generators go on from what `current` returned; one of another kind of device leaves this one's alone."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].numpy().astype("uint32")}})
    torch.set_rng_state(state["torch"].cpu())
    if device.type != "cpu" and "device" in state:
        there = () if device.type == "mps" else (device,)
        _of(device).set_rng_state(state["device"].cpu(), *there)


def _of(device: torch.device) -> Any:
    return getattr(torch, device.type)

"""What a run that was killed has left, and how what it ended with differs from what another run did."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray

from stepsize.resume.checkpoint_files import read

NAMES = ("last.ckpt", "previous.ckpt", "best.ckpt")
_OF_A_COMMAND = ("stepsize.words", "stepsize.config")  # with the folder and the probe
_OF_ALL_STARTS = ("objective", "best", "last", "test", "steps", "epochs", "examples", "ended", "skipped_steps")


def steps(folder: Path) -> dict[str, int]:
    """The steps that each checkpoint in a run's folder holds, by its name.

    Raises:
        RuntimeError: one is there and cannot be loaded, or the best that the last knows of is not there.
    """
    found, best = {}, -1
    for path in (folder / "checkpoints" / name for name in NAMES):
        if path.exists():
            try:
                saved = read(path)
                torch.load(path, weights_only=True)
            except Exception as error:  # whatever it is, the file is at fault
                raise RuntimeError(f"{path} cannot be loaded: {error}") from error
            found[path.name] = int(saved["global_step"])
            if path.name == "last.ckpt":
                best = saved["callbacks"]["Objective"]["step"] or best
    if found.get("best.ckpt", -1) < best:
        raise RuntimeError(f"best.ckpt in {folder} is not of step {best}, which last.ckpt says was the best")
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs do not have in common, by name: leaves of last.ckpt, results, points of curves."""
    pairs: dict[str, list[dict[Any, Any]]] = {
        "last.ckpt": [dict(_leaves("", read(folder / "checkpoints" / "last.ckpt"))) for folder in (one, other)],
        "result.json": [_result(folder / "result.json") for folder in (one, other)],
        "curve": [_curves(folder / "tensorboard") for folder in (one, other)],
    }
    return [
        f"{kind} {name}: {_short(a, name)} and {_short(b, name)}"
        for kind, (a, b) in pairs.items()
        for name in sorted(a.keys() | b.keys(), key=str)
        if not (name in a and name in b and _equal(a[name], b[name]))
    ]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name in _OF_A_COMMAND:
        return
    if isinstance(value, Mapping | list | tuple) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(f"{name}.{key}".lstrip("."), item)
        return
    yield name, value


def _result(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in _OF_ALL_STARTS}


def _curves(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Each tag's values at each step; more than one value is a second curve."""
    found: dict[tuple[str, int], list[float]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                if not value.tag.startswith("_hparams_/"):
                    number = float(make_ndarray(value.tensor)) if value.HasField("tensor") else value.simple_value
                    found.setdefault((value.tag, event.step), []).append(number)
    return found


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _short(values: Mapping[Any, Any], name: Any) -> str:
    return " ".join(repr(values[name]).split())[:40] if name in values else "nothing"

"""How long training stops for a checkpoint, against the copy of the state and against writing in its way.

    python scripts/bench_checkpoint.py                     # 17 M parameters with AdamW: a file of 200 MB
    python scripts/bench_checkpoint.py --width 512 --repeats 20

One run trains a multilayer perceptron on noise and saves, in turn, as the recipe does and as plain code would: state to
a file, synchronised, renamed, while the run waits. Minima over all turns, milliseconds:

`copy`      the state copied to other memory, which nothing can be shorter than
`stop`      what the recipe adds to the step at which it saves
`beside`    what a step takes longer on average while the file is being written in the background
`writing`   until the file is on the disk
`in the way`  the same file written as plain code would
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepsize.resume.checkpoint_files import CheckpointFiles, _copied


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2900, help="of the two hidden layers")
    parser.add_argument("--repeats", type=int, default=10, help="turns of each side")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    options = parser.parse_args()

    network = nn.Sequential(nn.Linear(8, options.width), nn.Linear(options.width, options.width))
    network.append(nn.Linear(options.width, options.width)).append(nn.Linear(options.width, 1))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    x = torch.randn(16, 8)

    def step() -> float:
        begun = time.perf_counter()
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - begun

    def state() -> dict[str, Any]:
        return {"model": network.state_dict(), "optimizer": optimizer.state_dict()}

    for _ in range(5):
        step()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = [_turn(step, state, Path(folder)) for _ in range(options.repeats)]
        size = (Path(folder) / "last.ckpt").stat().st_size
    least = {name: min(turn[name] for turn in found) for name in found[0]}
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, {size / 1e6:.0f} MB a file")
    print(f"{'step':<12}{1e3 * least.pop('step'):9.1f} ms")
    for name, seconds in least.items():
        print(f"{name:<12}{1e3 * seconds:9.1f} ms   {seconds / least['copy']:6.2f} x copy")


def _turn(step: Any, state: Any, folder: Path) -> dict[str, float]:
    steps = [step() for _ in range(5)]
    found = {"step": min(steps)}

    begun = time.perf_counter()
    _copied(state(), {})
    found["copy"] = time.perf_counter() - begun

    files, path = CheckpointFiles(), folder / "last.ckpt"
    begun = time.perf_counter()
    files.save_checkpoint(state(), path)
    found["stop"] = time.perf_counter() - begun
    beside = []
    while files._thread is not None and files._thread.is_alive():
        beside.append(step())
    files.wait()
    found["beside"] = max(0.0, sum(beside) / max(1, len(beside)) - found["step"])
    found["writing"] = time.perf_counter() - begun

    begun = time.perf_counter()
    partial = folder / "plain.partial"
    with partial.open("wb") as file:
        torch.save(state(), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "plain.ckpt")
    found["in the way"] = time.perf_counter() - begun
    return found


if __name__ == "__main__":
    main()

"""What a call of a compiled rule costs, with torch.compile's guards and past them.

    python scripts/bench_guards.py

A rule in one line, p += rate · (g + all states), compiled once, is called by torch.compile, which checks its guards
before each call, and by `Unguarded`, which has them checked once for each form of its arguments. Both take turns in one
process, on the same vectors; the fastest turn counts, in microseconds a call. A parameter of SGD has no state, of
momentum or Lion one, of AdamW two, of AdEMAMix three.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stepsize.optimizers.unguarded import Unguarded

SIZES = (4352, 65536, 1048576)
STATES = (0, 1, 2, 3)
CALLS = 20  # a turn


def rule(tensors: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
    """One pass over all tensors."""
    p, g, *states = tensors
    p.add_(sum(states, start=g) * numbers[0])


def seconds(call: Callable[[], object]) -> float:
    """Of a call, the mean of a turn."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS


@torch.no_grad()
def fastest(size: int, states: int, turns: int) -> tuple[float, float]:
    """Seconds of a call with guards and past them."""
    torch._dynamo.reset()
    guarded = torch.compile(rule, fullgraph=True, dynamic=True)
    unguarded = Unguarded(rule, (), {})
    numbers = [torch.tensor([1e-3])]
    tensors = [torch.zeros(size) for _ in range(2 + states)]

    def past() -> None:
        form = (size, *[t.dtype for t in tensors], *[t.device for t in tensors])
        unguarded(form, tensors, numbers)

    both: list[Callable[[], object]] = [lambda: guarded(tensors, numbers), past]
    for call in both:
        call()
    measured = [[seconds(call) for call in both] for _ in range(turns)]
    return min(m[0] for m in measured), min(m[1] for m in measured)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200, help="of each side")
    args = parser.parse_args()
    print(f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}; microseconds a call\n")
    print(f"{'elements':>9} {'states':>7} {'guarded':>9} {'unguarded':>10} {'ratio':>6}")
    for size in SIZES:
        for states in STATES:
            guarded, unguarded = fastest(size, states, args.turns)
            print(f"{size:9d} {states:7d} {guarded * 1e6:9.1f} {unguarded * 1e6:10.1f} {guarded / unguarded:6.2f}")


if __name__ == "__main__":
    main()

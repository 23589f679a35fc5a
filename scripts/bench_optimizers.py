"""The speed of an optimizer step: ours, torch's, and the same algorithms from other libraries.

    python scripts/bench_optimizers.py                           # the whole table on a transformer of 17 M parameters
    python scripts/bench_optimizers.py transformer lion adamw    # a shape set, then words
    python scripts/bench_optimizers.py matrices_24 muon
    python scripts/bench_optimizers.py small --device cuda --markdown
    python scripts/bench_optimizers.py transformer lion --cold   # compiles in a fresh process with an empty cache
    python scripts/bench_optimizers.py transformer soap --set max_precondition_dim=2048
    pip install pytorch_optimizer timm schedulefree heavyball    # the peers; what is not installed is left out

Only the step is timed, not a network. Every side has its own parameters, gradients and states; gradients are random and
stay the same; hyperparameters are the YAML's, handed to all sides under their names for them. All sides of a word and a
copy take turns in one process, in several lots where they do not fit into memory together. Rows:

    ours compiled, ours eager         one class, compiled=True and False
    torch fused, foreach, loop        what torch's class has on the device
    LIBRARY, LIBRARY foreach          a peer as it comes, and with foreach=True where it has that
    reference: AdamW fused            torch's, beside ours, for scale; no peer. SGD where ours has no state

`ms` is the fastest turn, a step. A turn is one step, or as many as lie between two refreshes of a preconditioner; ten
times that on a GPU, with one synchronisation. `/ best peer` is that over the fastest side from another library.

`GB/s` counts the bytes that the algorithm must move; `of copy` compares that to `Tensor.copy_` of a buffer as large as
the parameters, 8 bytes an element. They are counted on what the first side holds after a step: one pass reads and
writes p, reads g, and reads and writes every state that has p's shape. In fp32 that is 12 and 8 for each state: SGD 12;
momentum, Adagrad, RMSprop, Lion 20; Adam, AdamW, schedule-free AdamW 28; AdEMAMix 36. To that comes, where sums over a
whole parameter are needed before it can move (`more bytes` in its YAML):

    LARS      8  the norms read p and g: 28 in all
    LAMB     12  after the norms, p, m and v are read again: 40
    MARS      8  the norm of the corrected gradient reads g and the one before: 44
    Prodigy   8  after the sums, p, m and v are read again, but the initial p is never written: 52

Where a state has another shape than its parameter (Adafactor, Shampoo, SOAP), a step is no pass over memory: "-".

`first s` is what the warm-up steps took beyond as many of the fastest: allocation, and compiling from inductor's cache
as it is; the first word that compiles also pays for starting the compiler. With --cold, for ours compiled, it is taken
in a fresh process with an empty cache, the compiler's start included.

Muon gets the hidden matrices only, flattened to two dimensions. Its work, 5 (4 m² n + 2 m³) for each with m <= n, is
compared to a product of two square matrices in the dtype of our iteration.

After the table: for each of ours the time that compiling saves, what it costs, and from how many parameters times steps
on it is paid back. From an idle machine and with --cold, that is where compilation.WORTH_COMPILING comes from.

L-BFGS and SAM are left out: they call the closure again, and their step is the network's time.
"""

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import logging
import math
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from optimizer_peers import PEERS, PERIOD, Peer
from optimizer_shapes import SHAPES, Shapes
from stepsize import build
from stepsize.answers import one_line_errors
from stepsize.config import CONF, register
from stepsize.errors import suggestion
from stepsize.optimizers import OPTIMIZERS
from stepsize.optimizers.fused import has_fused_step
from stepsize.optimizers.orthogonalize import native_dtype

CLOSURE = {"lbfgs", "sam"}
HIDDEN_MATRICES = {"muon"}
WARM = 3  # steps before the turns,
WARM_SECONDS = 2  # or as many as fit in here
ROOM = 4 * 12  # bytes a parameter for a side: p, g, up to four states, and what a foreach step allocates meanwhile


@dataclass(kw_only=True)
class Timed:
    """What takes turns.

    Args:
        step: does it once.
        period: steps of a turn.
    """

    step: Callable[[], object] | None = None
    period: int = 1
    turns: list[float] = field(default_factory=list)  # seconds a step

    @property
    def seconds(self) -> float:
        return min(self.turns)

    def turn(self, device: torch.device) -> None:
        """Take one."""
        assert self.step is not None
        steps = self.period * (10 if device.type == "cuda" else 1)
        started = now(device)
        for _ in range(steps):
            self.step()
        self.turns.append((now(device) - started) / steps)


@dataclass(kw_only=True)
class Side(Timed):
    """One optimizer with parameters of its own.

    Args:
        word: of the table; "" for the reference.
        name: of the row.
        library: whose it is.
        make: makes it.
    """

    word: str
    name: str
    library: str
    make: Callable[[list[Tensor]], Optimizer]
    warm: int = 0  # steps before the turns
    first: float = 0.0  # seconds, of all of them
    bytes: int | None = None  # that a step must move

    @property
    def compiling(self) -> float:
        return max(self.first - self.warm * self.seconds, 0.0)

    def prepare(self, shapes: Shapes, device: torch.device) -> None:
        """Make it and take the warm-up steps."""
        parameters = fixed(shapes, device)
        optimizer = self.make(parameters)
        if hasattr(optimizer, "train"):  # schedule-free
            optimizer.train()
        started = now(device)
        while self.warm < WARM and (self.warm == 0 or self.first < WARM_SECONDS):
            optimizer.step()
            self.warm, self.first = self.warm + 1, now(device) - started
        if any(p.grad is None for p in parameters):
            raise RuntimeError("it drops the gradients, and its next step would do nothing")
        self.step, self.bytes = optimizer.step, moved(optimizer, self.word)


@dataclass(frozen=True)
class Row:
    """One line of the table; None where there is no such figure."""

    word: str
    side: str
    seconds: float
    parameters: int
    bandwidth: float | None  # bytes a second
    of_copy: float | None
    first: float
    to_peer: float | None

    def cells(self) -> list[str]:
        """As they are printed."""
        return [
            self.word,
            self.side,
            f"{self.seconds * 1e3:.3f}",
            f"{self.seconds * 1e9 / self.parameters:.3f}",
            "-" if self.bandwidth is None else f"{self.bandwidth / 1e9:.1f}",
            "-" if self.of_copy is None else f"{self.of_copy:.0%}",
            f"{self.first:.1f}",
            "-" if self.to_peer is None else f"{self.to_peer:.2f}",
        ]


HEAD = ["word", "side", "ms", "ns/parameter", "GB/s", "of copy", "first s", "/ best peer"]


def now(device: torch.device) -> float:
    """Seconds, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fixed(shapes: Shapes, device: torch.device) -> list[Tensor]:
    """Parameters with gradients, the same at every call."""
    generator = torch.Generator(device).manual_seed(0)
    found: list[Tensor] = []
    for shape in shapes.values():
        p = nn.Parameter(torch.randn(shape, device=device, generator=generator) / 50)
        p.grad = torch.randn(shape, device=device, generator=generator) / 1000
        found.append(p)
    return found


def chosen(word: str, device: torch.device, also: Sequence[str] = ()) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class of a word and the hyperparameters of its YAML, over which go others, as KEY=VALUE."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"optimizer.{said}" for said in also]
        cfg = compose("train", [f"optimizer={word}", "name=bench", "run_dir=unused", *words])
    made = build.optimizer(cfg, device)
    cls: Any = made.func
    kept = {k: v for k, v in made.keywords.items() if k not in ("fused", "foreach", "compiled")}
    return cls, {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


def imported(path: str) -> Any:
    """What a dotted path names.

    Raises:
        ImportError: it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    for package in ("timm", "timm.optim"):  # not executed: they import torchvision, which timm's optimizers do not need
        if module.startswith(package) and package not in sys.modules:
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise ImportError(f"No module named '{package}'")
            sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return getattr(importlib.import_module(module), name)
    except (AttributeError, RuntimeError) as error:
        raise ImportError(str(error)) from error


def peer_sides(word: str, peer: Peer, numbers: Mapping[str, Any]) -> Iterator[Side]:
    """The peer as it comes, and with foreach.

    Raises:
        ImportError: it is not installed.
    """
    cls = imported(peer.path)
    known = inspect.signature(cls).parameters
    keywords = {k: v for k, v in numbers.items() if k in known and v is not None}
    keywords |= {k: numbers[ours] for k, ours in peer.renamed.items() if ours in numbers} | dict(peer.also)

    def make(parameters: list[Tensor], **more: Any) -> Optimizer:
        made: Optimizer = cls([{"params": parameters, **peer.group}], **keywords, **more)
        return made

    library = peer.path.partition(".")[0]
    name = f"{library} {peer.variant}".strip()
    yield Side(word=word, name=name, library=library, make=make)
    if "foreach" in known:
        yield Side(word=word, name=f"{name} foreach", library=library, make=partial(make, foreach=True))


def sides_of(word: str, device: torch.device, also: Sequence[str] = ()) -> tuple[list[Side], list[str]]:
    """All sides of a word, ours or torch's first, and notes on what is left out."""
    cls, numbers = chosen(word, device, also)
    library = cls.__module__.partition(".")[0]
    variants: dict[str, dict[str, Any]] = {"ours compiled": {"compiled": True}, "ours eager": {"compiled": False}}
    if word in HIDDEN_MATRICES:
        variants = {"ours": {}}  # matrices have one execution
    if library == "torch":
        variants = {"torch fused": {"fused": True}} if has_fused_step(cls, device) else {}
        variants |= {"torch foreach": {"foreach": True}, "torch loop": {"foreach": False}}
        if "fused" in inspect.signature(cls).parameters:
            variants["torch loop"]["fused"] = False
    sides = [
        Side(word=word, name=name, library=library, make=partial(cls, **numbers, **more))
        for name, more in variants.items()
    ]
    scale: Any = torch.optim.AdamW if getattr(cls, "buffers", True) else torch.optim.SGD
    if library != "torch" and has_fused_step(scale, device):
        name = f"reference: {scale.__name__} fused"
        sides.append(Side(word="", name=name, library="torch", make=partial(scale, fused=True)))
    notes: list[str] = []
    for peer in PEERS.get(word, []):
        try:
            sides += peer_sides(word, peer, numbers)
            known = {*inspect.signature(imported(peer.path)).parameters, *peer.renamed.values()}
            unknown = [said for said in also if said.partition("=")[0] not in known]
            notes += [f"{word}: {peer.path} does not know {' '.join(unknown)}"] if unknown else []
        except ImportError as error:
            notes.append(f"{word}: without {peer.path}: {reason(error)}")
    for side in sides:
        side.period = numbers.get(PERIOD, 1)
    return sides, notes


def reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def moved(optimizer: Optimizer, word: str) -> int | None:
    """Bytes that a step of this algorithm must move; None where it is no pass over memory."""
    if PERIOD in optimizer.defaults:
        return None  # a preconditioner's factors have the parameter's shape where that is square
    total = 0
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        states = [s for s in optimizer.state[p].values() if isinstance(s, Tensor) and s.is_floating_point() and s.ndim]
        if any(s.shape != p.shape for s in states):
            return None
        total += p.nbytes * 2 + p.grad.nbytes + sum(2 * s.nbytes for s in states)
        total += more_bytes(word) * p.numel()
    return total


def more_bytes(word: str) -> int:
    """Bytes an element beyond one pass, which an optimizer's YAML names."""
    path = CONF / "optimizer" / f"{word}.yaml"
    said = re.search(r"^# more bytes: (\d+)", path.read_text(encoding="utf-8"), re.M) if path.exists() else None
    return int(said[1]) if said else 0


def elements(shapes: Shapes) -> int:
    """How many numbers they hold together."""
    return sum(math.prod(s) for s in shapes.values())


def hidden(shapes: Shapes) -> Shapes:
    """The hidden matrices, as matrices."""
    return {n: (s[0], math.prod(s[1:])) for n, s in shapes.items() if len(s) > 1 and "embedding" not in n}


def room(device: torch.device) -> int:
    """Bytes of memory that are free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def copying(count: int, device: torch.device) -> Timed:
    """The copy of a buffer of `count` elements."""
    source = torch.ones(count, device=device)
    target = torch.zeros_like(source)
    return Timed(step=lambda: target.copy_(source))


def product(device: torch.device) -> tuple[Timed, int]:
    """The product of two square matrices, and its floating point operations."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.ones(size, size, device=device, dtype=native_dtype(device.type))
    out = torch.empty_like(a)
    return Timed(step=lambda: torch.mm(a, a, out=out)), 2 * size**3


def take_turns(sides: Sequence[Timed], turns: int, seconds: float, device: torch.device) -> None:
    """Turn by turn, every side once, until there are enough turns or the time is up."""
    started = time.perf_counter()
    for done in range(turns):
        if done > 0 and time.perf_counter() - started > seconds:
            break
        # In another order each time: who follows a copy finds the caches cold, who follows its like finds them warm.
        for side in random.Random(done).sample(sides, len(sides)):
            side.turn(device)


def contest(
    sides: Sequence[Side], beside: Sequence[Timed], shapes: Shapes, args: argparse.Namespace, bar: Any
) -> list[str]:
    """Let the sides take turns, as many at a time as there is memory for; returns which cannot, and why."""
    notes = []
    lot = max(2, int(room(args.device) * 0.8 / (ROOM * elements(shapes))))
    for begin in range(0, len(sides), lot):
        ready: list[Side] = []
        for side in sides[begin : begin + lot]:
            bar.set_postfix_str(f"{side.word} {side.name}")
            try:
                side.prepare(shapes, args.device)
            except Exception as error:
                if side.library in ("stepsize", "torch"):
                    raise
                notes.append(f"{side.word}: without {side.name}: {reason(error)}")
                continue
            ready.append(side)
        bar.set_postfix_str(f"{sides[0].word} in turns")
        take_turns([*ready, *beside], args.repeats, args.seconds, args.device)
        for side in ready:
            side.step = None  # frees what it holds
    return notes


def measure(word: str, shapes: Shapes, args: argparse.Namespace, bar: Any) -> tuple[list[Row], list[str]]:
    """The rows of a word, and notes."""
    shapes = hidden(shapes) if word in HIDDEN_MATRICES else shapes
    count = elements(shapes)
    copy, (matmul, operations) = copying(count, args.device), product(args.device)
    sides, notes = sides_of(word, args.device, args.also)
    notes += contest(sides, [copy, matmul] if word in HIDDEN_MATRICES else [copy], shapes, args, bar)
    sides = [side for side in sides if side.turns]
    if args.cold and sides[0].library == "stepsize":
        sides[0].first = cold(word, shapes, args) + sides[0].warm * sides[0].seconds
    rows = []
    for side in sides:
        others = [s.seconds for s in sides if s.word and s.library != side.library]
        needed = sides[0].bytes if side.word else side.bytes
        bandwidth = None if needed is None else needed / side.seconds
        share = None if bandwidth is None else bandwidth / (8 * count / copy.seconds)
        ratio = side.seconds / min(others) if others and side.word else None
        rows.append(Row(word, side.name, side.seconds, count, bandwidth, share, side.compiling, ratio))
    turns, copied = len(copy.turns), 8 * count / copy.seconds / 1e9
    notes.append(f"{word}: {count} parameters in {len(shapes)} tensors; {turns} turns; copy {copied:.1f} GB/s")
    if matmul.turns:
        iterations = chosen(word, args.device, args.also)[1].get("ns_steps", 5)
        work = iterations * sum(4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3 for s in shapes.values())
        peak = operations / matmul.seconds
        notes.append(f"{word}: {work / 1e9:.2f} GFLOP a step; product {peak / 1e9:.0f} GFLOP/s")
        for side in (s for s in sides if s.word):
            rate = work / side.seconds
            notes.append(f"{word}: {side.name} {rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the product")
    return rows, notes


def cold(word: str, shapes: Shapes, args: argparse.Namespace) -> float:
    """Seconds of the first steps of ours compiled, beyond others, in a fresh process with an empty cache."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                return pool.submit(compiling, word, shapes, args).result()
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def compiling(word: str, shapes: Shapes, args: argparse.Namespace) -> float:
    """What a process pays for compiling a word."""
    register()
    torch.set_num_threads(args.threads)
    side = sides_of(word, args.device, args.also)[0][0]
    with quiet():
        side.prepare(shapes, args.device)
        for _ in range(WARM):
            side.turn(args.device)
    return side.compiling


def payback(rows: Sequence[Row]) -> list[str]:
    """For each of ours, from which parameters times steps on compiling is worth its time."""
    found = []
    for word in dict.fromkeys(row.word for row in rows):
        sides = {row.side: row for row in rows if row.word == word}
        if "ours compiled" not in sides:
            continue
        compiled, eager = sides["ours compiled"], sides["ours eager"]
        gain = (eager.seconds - compiled.seconds) / compiled.parameters
        cost = max(compiled.first - eager.first, 0.0)
        worth = f"paid back after {cost / gain:.1e} parameters x steps" if gain > 0 else "never paid back"
        found.append(f"{word}: compiling saves {gain * 1e9:.3f} ns/parameter and takes {cost:.1f} s: {worth}")
    return found


def printed(rows: Sequence[Row], markdown: bool) -> list[str]:
    """The lines of the table."""
    cells = [HEAD, *(row.cells() for row in rows)]
    if markdown:
        lines = [f"| {' | '.join(line)} |" for line in cells]
        return [lines[0], "|---|---|" + "---:|" * (len(HEAD) - 2), *lines[1:]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    return [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, of which the peers have many; what fails is noted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@one_line_errors
def main() -> None:
    """Measure the words on the shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="?", default="transformer", help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("words", nargs="*", help="of the table of optimizers; default: all")
    parser.add_argument("--repeats", type=int, default=30, help="turns of each side, at most")
    parser.add_argument("--seconds", type=float, default=10, help="after which a word's turns end")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--set", nargs="*", default=[], dest="also", metavar="KEY=VALUE", help="hyperparameters")
    parser.add_argument("--cold", action="store_true", help="compile ours in a fresh process with an empty cache")
    parser.add_argument("--markdown", action="store_true", help="print a table for a Markdown page")
    args = parser.parse_args()
    if args.shapes not in SHAPES:
        parser.error(f"there is no shape set {args.shapes}; {suggestion(args.shapes, SHAPES)}")
    for word in args.words:
        if word not in OPTIMIZERS:
            parser.error(f"there is no optimizer {word}; {suggestion(word, OPTIMIZERS)}")
    if args.repeats < 1:
        parser.error(f"--repeats must be 1 or more, got {args.repeats}")
    register()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"{args.threads} threads"
    shapes = SHAPES[args.shapes]()
    words = args.words or list(OPTIMIZERS)
    for word in words if args.also else ():
        chosen(word, args.device, args.also)  # what is wrong with them is said before anything is measured
    rows: list[Row] = []
    notes = [f"{word}: left out, since it calls the closure again" for word in words if word in CLOSURE]
    try:
        with quiet(), tqdm([word for word in words if word not in CLOSURE], unit="word", disable=None) as bar:
            for word in bar:
                found, said = measure(word, shapes, args, bar)
                rows += found
                notes += said
    finally:  # an interrupt leaves what is measured
        print(f"{args.shapes} on {args.device.type}, {where}, torch {torch.__version__}")
        print("\n".join(["", *printed(rows, args.markdown), "", *payback(rows), "", *notes]))


if __name__ == "__main__":
    main()

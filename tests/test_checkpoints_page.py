"""What docs/checkpoints.md shows of a trained network runs as it stands there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from stepsize.config import CONF
from stepsize.data import DATA
from stepsize.data.digits import Digits
from stepsize.signature import load

Command = Callable[..., subprocess.CompletedProcess[str]]
PAGE = (CONF.parent / "docs" / "checkpoints.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE[PAGE.index("## Use a trained network") :], re.S)


def test_the_page_runs_from_top_to_bottom(command: Command, tmp_path: Path) -> None:
    """Train, load, predict, and test again, in one folder; the Python blocks are one program."""
    for line in [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]:
        python, script, *words = shlex.split(line)
        done = command(*words, script=script)
        assert (python, done.returncode) == ("python", 0), done.stderr
    program = "".join(block for kind, block in BLOCKS if kind == "python")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "tensor([0, 1, 2, 3, 4])\n", done.stderr
    assert len(list(tmp_path.glob("runs/*/result.json"))) + len(list(tmp_path.glob("runs/*/*/result.json"))) == 2


def test_the_digits_of_the_page_are_those_of_training() -> None:
    from sklearn.datasets import load_digits

    names = {"torch": torch, "load_digits": load_digits}
    (block,) = [block for kind, block in BLOCKS if kind == "python" and "load_digits" in block]
    shown = [line for line in block.splitlines() if line.startswith(("from stepsize", "pictures =", "x ="))]
    exec("\n".join(shown).replace("[:5]", ""), names)
    trained_on = torch.cat([x for x, _ in Digits().read()])
    assert torch.equal(torch.unique(names["x"], dim=0), torch.unique(trained_on, dim=0))


def test_the_page_says_of_every_data_module_what_its_network_takes() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.M))
    kinds = {"values": "float32", "tokens": "int64"}
    shapes = {word: load(target) for word, target in DATA.items()}
    said = {
        word: f"{kinds[module.kind]}, (B, {', '.join(map(str, module.input_shape))})"
        for word, module in shapes.items()
        if module.kind == "values"
    }
    assert rows == said | {"text": "int64, (B, T), T up to `data.context_length`"}

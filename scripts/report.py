"""Make the files of a sweep anew from its storage, while it runs as well as after it.

    python scripts/report.py lr-digits-mlp-lion-warmup_cosine          # or its folder, wherever that is
    python scripts/report.py STUDY --storage postgresql://USER@HOST/DATABASE --folder report

It writes trials.csv, best.yaml, report.html and the plots, and prints the table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from stepsize.answers import one_line_errors
from stepsize.errors import ConfigError, suggestion
from stepsize.sweep import multirun, storage
from stepsize.sweep.read import read
from stepsize.sweep.table import table

SWEEPS = Path("runs", "sweeps")


def address(study: str, folder: Path) -> str:
    """Of the study that a sweep on one machine keeps in its folder.

    Raises:
        ConfigError: the folder holds none.
    """
    if not (folder / "study.db").exists():
        known = [str(path.parent.relative_to(SWEEPS)) for path in SWEEPS.rglob("study.db")]
        raise ConfigError(f"{study}: no study.db in {folder}; name --storage or --folder; {suggestion(study, known)}")
    return storage.file_url(folder)


def rebuild(study: str, url: str | None, folder: Path) -> None:
    """Write the files of a sweep, and say what it has found.

    Args:
        study: name of the sweep.
        url: of its storage; None is the file in its folder.
        folder: to write to.

    Raises:
        ConfigError: there is no such storage, or no such sweep in it.
    """
    opened = storage.connect(url or address(study, folder))
    found = read(opened, study)
    left = multirun.write(opened, found, folder)
    print(table(found))
    for path in left:
        print(path)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", metavar="STUDY", help="name of the sweep, which is its folder's in runs/sweeps, or the folder"
    )
    parser.add_argument("--storage", metavar="URL", help="of the study, where it is not study.db in the folder")
    parser.add_argument("--folder", metavar="F", type=Path, help="to write to; runs/sweeps/STUDY if not given")
    return parser.parse_args(arguments)


@one_line_errors
def main() -> None:
    """Rebuild what the command line names."""
    words = parse()
    study, folder = words.study, SWEEPS / words.study
    if (said := Path(words.study, "multirun.yaml")).exists():
        study, folder = OmegaConf.load(said).hydra.sweeper.study, said.parent
    rebuild(study, words.storage, words.folder or folder)


if __name__ == "__main__":
    main()

"""Every trial of a sweep as a line of a CSV file."""

import csv
import io
from pathlib import Path

from stepsize.data.files import whole_file
from stepsize.sweep.results import SweepResult

BEFORE = ("arm", "number", "state", "objective")
AFTER = ("seconds", "steps", "retry_of", "folder", "reason")


def write(sweep: SweepResult, path: Path) -> None:
    """Write `path`, whole or not at all.

    Columns: arm, number, state, objective (inf or -inf where it diverged), each searched parameter under its own name
    (after a "params." where it is the name of another column), seconds, steps (optimizer steps at the last validation),
    retry_of, folder, reason. What is not known is empty. Numbers have all their digits; UTF-8, lines end in CRLF.

    "Common Format and MIME Type for CSV Files", RFC 4180, 2005, https://www.rfc-editor.org/rfc/rfc4180.
    """
    names = list(dict.fromkeys(name for arm in sweep.arms for trial in arm.trials for name in trial.params))
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    columns = [f"params.{name}" if name in {*BEFORE, *AFTER} else name for name in names]
    lines.writerow([*BEFORE, *columns, *AFTER])
    for arm in sweep.arms:
        for trial in arm.trials:
            searched = [trial.params.get(name) for name in names]
            steps = max(trial.curve, default=None)
            ended = [trial.seconds, steps, trial.retry_of, trial.folder, trial.reason]
            lines.writerow([arm.name, trial.number, trial.state.value, trial.value, *searched, *ended])
    with whole_file(path) as file:
        file.write(text.getvalue().encode(errors="backslashreplace"))

import subprocess
import sys

import pytest

from stepsize.config import CONF

SCRIPT = CONF.parent / "scripts" / "bench_guards.py"


@pytest.mark.slow
def test_each_size_has_a_row_with_its_ratio() -> None:
    command = [sys.executable, str(SCRIPT), "--turns", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[3:]]
    assert len(rows) == 12
    for size, states, guarded, unguarded, ratio in rows:
        assert (int(size) > 4096, int(states) < 4) == (True, True)
        assert float(guarded) / float(unguarded) == pytest.approx(float(ratio), rel=0.05)

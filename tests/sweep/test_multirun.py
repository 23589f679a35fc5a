"""The sweeper in a Hydra application of a user's own, in real processes: study, folders, failures, launchers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SWEEP, Commands, Ended, given_in
from optuna.trial import TrialState

X = ("x=interval(0,1)", "seen=seen")
# With seed=1 the sixth trial is worse than the median of those before it.
PRUNED = (*X, "hydra.sweeper.seed=1", "hydra.sweeper.n_trials=5", "hydra.sweeper.pruner=median", "reports=3")
WHAT_COMES_OUT = ("number", "state", "objective", "x", "retry_of")


def outcome(commands: Commands) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in WHAT_COMES_OUT) for row in commands.rows()]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Commands, Ended]]:
    """A sweep of six in which much goes wrong."""
    wrong = "at={0:text,1:raise,2:kill,3:segfault,4:exit,5:undefined}"
    with given_in(tmp_path_factory.mktemp("failing")) as commands:
        yield commands, commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=6", "hydra.sweeper.workers=2", wrong)


def test_what_goes_wrong_in_a_trial_costs_that_trial_alone(failing: tuple[Commands, Ended]) -> None:
    commands, ended = failing
    assert ended.code == 0, ended.err
    states = [row["state"] for row in commands.rows()]
    assert (states.count("failed"), states.count("diverged"), states.count("complete")) == (5, 1, 5)
    assert [row["number"] for row in commands.rows() if row["state"] == "failed"] == ["0", "1", "2", "3", "4"]


def test_a_failed_trial_says_why_in_one_line_and_shows_the_tail_of_its_log(failing: tuple[Commands, Ended]) -> None:
    _, ended = failing
    assert "trial 1: failed: ValueError: trial 1 does not like it" in ended.out
    assert "    this is what 1 printed\n" in ended.out
    assert "    ValueError: trial 1 does not like it\n" in ended.out
    assert "trial 2: failed: killed by SIGKILL (out of memory?)" in ended.out
    assert "trial 3: failed: killed by SIGSEGV" in ended.out
    assert "in befall\n" in ended.out.partition("trial 3: failed")[2].partition("\ntrial ")[0]
    assert "trial 4: failed: the process ended with exit code 7 and no result" in ended.out
    assert "trial 0: failed: ValueError: a task that is swept returns its objective, a number; this one" in ended.out


def test_a_killed_trial_is_tried_once_more_with_the_same_parameters(failing: tuple[Commands, Ended]) -> None:
    commands, ended = failing
    retried = [row for row in commands.rows() if row["retry_of"]]
    (killed,) = (row for row in commands.rows() if row["number"] == "2")
    assert [(row["retry_of"], row["state"], row["x"]) for row in retried] == [("2", "complete", killed["x"])]
    assert ended.out.count("it is tried again") == 1


def test_a_value_that_is_no_number_is_told_as_diverged(failing: tuple[Commands, Ended]) -> None:
    commands, _ = failing
    trial = commands.trials()[5]
    assert (trial.state, trial.value) == (TrialState.PRUNED, float("inf"))


def test_no_line_is_wider_than_a_wide_terminal(failing: tuple[Commands, Ended]) -> None:
    _, ended = failing
    lines = [line for line in ended.out.splitlines() if not line.startswith("To repeat the best: ")]  # is to be copied
    assert max(map(len, lines)) <= 144
    assert ended.err == ""


def test_nothing_is_left_running(failing: tuple[Commands, Ended]) -> None:
    failing[0].wait_for_none_left()


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Commands, list[Ended], dict[str, float]]]:
    """A sweep of nine that is extended to sixteen, and asked once more; and when the first nine were written."""
    with given_in(tmp_path_factory.mktemp("continued")) as commands:
        ended = [commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=9")]
        written = {p.name: p.stat().st_mtime for p in (commands.folder / "out").glob("[0-9]*/*")}
        ended += [commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=16") for _ in range(2)]
        yield commands, ended, written


def test_nine_and_seven_trials_equal_sixteen_in_one_go(continued: tuple, commands: Commands) -> None:
    ended = commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=16")
    assert ended.code == 0
    assert len(outcome(commands)) == 16
    assert outcome(commands) == outcome(continued[0])


def test_folders_are_named_by_number_and_never_written_twice(continued: tuple) -> None:
    commands, ended, _ = continued
    assert [e.code for e in ended] == [0, 0, 0]
    assert sorted(int(p.name) for p in (commands.folder / "out").glob("[0-9]*")) == list(range(16))
    assert commands.numbers() == list(range(16))
    logs = [(commands.folder / "out" / str(n) / "output.log").read_text() for n in range(16)]
    assert logs == [f"this is what {n} printed\n" for n in range(16)]


def test_a_finished_study_says_so_and_how_to_extend_it(continued: tuple) -> None:
    last = continued[1][-1]
    assert "study sweep is finished; sweep.n_trials=32 extends it" in last.out
    assert "trial 0: objective" not in last.out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "hydra.sweeper.n_trials=17",
            "sweep.study=sweep: made by another command (x: was 0..1, is 0..2; config.y was 1.0, is 3",
        ),
        ("hydra.sweeper.study=other", "hydra.sweep.dir=out: study sweep lies there; other needs another folder"),
    ],
    ids=["another command", "another study"],
)
def test_a_folder_with_a_study_refuses_what_is_not_its_own(
    continued: tuple, tmp_path: Path, word: str, said: str
) -> None:
    with given_in(tmp_path) as commands:
        shutil.copytree(continued[0].folder / "out", tmp_path / "out")
        before = sorted((p, p.stat().st_mtime) for p in (tmp_path / "out").rglob("*"))
        ended = commands.run(*SWEEP, "x=interval(0,2)", "y=3", "seen=seen", word)
    assert ended.code == 1
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert sorted((p, p.stat().st_mtime) for p in (tmp_path / "out").rglob("*")) == before


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with given_in(tmp_path_factory.mktemp("pruned")) as commands:
        commands.run(*SWEEP, *PRUNED, "at={1:raise}")
        yield commands


def test_a_trial_that_is_worse_than_the_others_is_pruned(pruned: Commands) -> None:
    states = [row["state"] for row in pruned.rows()]
    assert states == ["complete", "failed", "complete", "complete", "complete", "pruned"]
    assert [len(t.intermediate_values) for t in pruned.trials()] == [3, 0, 3, 3, 3, 1]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "submitit_local")]


@pytest.mark.parametrize("launcher", ["basic", *SLOW])
def test_another_launcher_comes_to_the_same_results(launcher: str, pruned: Commands, commands: Commands) -> None:
    ended = commands.run(*SWEEP, *PRUNED, f"hydra/launcher={launcher}", "at={1:raise}")
    assert ended.code == 0, ended.err
    assert outcome(commands) == outcome(pruned)
    assert "    ValueError: trial 1 does not like it\n" in ended.out.partition("trial 1: failed")[2]
    commands.wait_for_none_left()


@pytest.mark.slow
def test_a_batch_of_another_launcher_has_as_many_trials_as_workers(commands: Commands) -> None:
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.workers=2", "hydra.sweeper.n_trials=6")
    ended = commands.run(*SWEEP, *X, *words, "at={1:kill}")
    assert ended.code == 0, ended.err
    assert [t.state for t in commands.trials()].count(TrialState.COMPLETE) == 6
    assert any(row["retry_of"] == "1" for row in commands.rows())
    assert {t.state for t in commands.trials()} == {TrialState.COMPLETE, TrialState.FAIL}


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_costs_itself_alone(commands: Commands) -> None:
    ended = commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=2", "at={0:memory}", memory=1 << 31)
    assert ended.code == 0, ended.err
    assert [row["state"] for row in commands.rows()] == ["failed", "complete", "complete"]
    assert commands.rows()[0]["reason"].startswith("MemoryError")


def test_a_sweep_in_which_all_fails_ends_with_one_line(commands: Commands) -> None:
    words = ("hydra.sweeper.n_trials=9", "hydra.sweeper.max_failures=1", "always=raise")
    ended = commands.run(*SWEEP, *X, *words)
    assert ended.code == 1
    assert ended.err.splitlines()[0].startswith("failed trials: 2, more than sweep.max_failures=1; mend what they show")
    assert "Traceback" not in ended.err
    assert commands.numbers() == [0, 1]
    assert TrialState.RUNNING not in {t.state for t in commands.trials()}
    assert [row["state"] for row in commands.rows()][:2] == ["failed", "failed"]


def test_words_that_cannot_work_are_answered_and_leave_nothing(commands: Commands) -> None:
    ended = commands.run(*SWEEP, *X, "hydra.sweeper.n_trials=0")
    assert ended.code == 1
    assert ended.err.startswith("sweep.n_trials must be a whole number of at least 1, got 0\n")
    assert "Traceback" not in ended.err
    assert not (commands.folder / "out").exists()


def test_the_launcher_alone_runs_hydras_own_sweep(commands: Commands) -> None:
    ended = commands.run("-m", "hydra/launcher=forkserver", "hydra.sweep.dir=out", "x=1,2,3", "seen=seen")
    assert ended.code == 0, ended.err
    assert sorted(line[3] for line in commands.seen() if line[0] == "ended") == ["1", "2", "3"]
    assert (commands.folder / "out/2/.hydra/overrides.yaml").read_text() == "- x=3\n- seen=seen\n"


def test_a_job_that_fails_under_the_launcher_alone_fails_the_command(commands: Commands) -> None:
    words = ("hydra.launcher.workers=2", "hydra.sweep.dir=out", "x=1,2,3", "seen=seen", "at={1:kill}")
    ended = commands.run("-m", "hydra/launcher=forkserver", *words)
    assert ended.code == 1
    assert "#1: killed by SIGKILL" in ended.err
    assert sorted(commands.numbers("ended")) == [0, 2]
    commands.wait_for_none_left()

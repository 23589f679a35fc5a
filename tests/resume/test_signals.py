"""What SIGTERM, SIGUSR1 and Ctrl-C do to a run, and how it goes on; real processes of train.py."""

import signal

import pytest

from training_commands import Commands, assert_equal, until

SHORT = ("trainer=cpu", "trainer.max_epochs=3", "trainer.limit_train_batches=10", "data.batch_size=32")
WORDS = (*SHORT, "run_dir=run")
CODES = [
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
]
TRACES = ("Traceback", "Error", "Exception")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """A run that nothing has interrupted."""
    commands = Commands(tmp_path_factory.mktemp("uninterrupted"))
    assert commands.run(*WORDS).code == 0
    return commands


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_saves_the_step_and_says_what_to_type_to_finish_equal_in_every_bit(
    commands: Commands, uninterrupted: Commands, number: signal.Signals, code: int
) -> None:
    ended = commands.interrupted(number, *WORDS)
    assert ended.code == code
    assert ended.out.splitlines()[-2] == f"{number.name} at step 6; saved run/checkpoints/last.ckpt"
    assert ended.last.startswith("to continue: python ")
    assert ended.last.endswith("train.py resume=run")
    assert not [line for line in ended.err.splitlines() if line.startswith(TRACES)]
    log = (commands.folder / "run/train.log").read_text().splitlines()
    assert log[-1].endswith(ended.last)
    assert commands.saved()["global_step"] == 6
    assert commands.result()["ended"] == f"interrupted by {number.name} at step 6"
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


@pytest.mark.slow
def test_it_ends_without_a_traceback_also_where_the_user_asks_for_full_errors(commands: Commands) -> None:
    ended = commands.interrupted(signal.SIGTERM, *WORDS, HYDRA_FULL_ERROR="1")
    assert ended.code == 143
    assert ended.last.startswith("to continue: ")
    assert not [line for line in ended.err.splitlines() if line.startswith(TRACES)]


def test_a_signal_during_validation_stops_at_its_next_batch_and_a_resumed_run_begins_it_anew(
    commands: Commands, uninterrupted: Commands
) -> None:
    at = "step:10,hook:on_validation_batch_start,batch:1"
    ended = commands.interrupted(signal.SIGTERM, *WORDS, at=at)
    assert ended.code == 143
    assert commands.saved()["global_step"] == 10
    assert commands.saved()["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["current"]["completed"] == 2
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


@pytest.mark.parametrize(
    "at",
    [
        "hook:on_test_batch_start,batch:0",
        pytest.param("hook:on_fit_end", marks=pytest.mark.slow),
        pytest.param("step:30,hook:on_validation_batch_start,batch:1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_after_the_last_step_leaves_the_rest_to_the_resumed_run(
    commands: Commands, uninterrupted: Commands, at: str
) -> None:
    ended = commands.interrupted(signal.SIGTERM, *WORDS, at=at)
    assert ended.code == 143
    assert commands.result()["ended"] == "interrupted by SIGTERM at step 30"
    assert commands.result()["test"] == {}
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_before_training_begins_ends_the_run_at_once_in_one_line(
    commands: Commands, number: signal.Signals, code: int
) -> None:
    running = commands.held(*WORDS, at="hook:setup")
    running.send(number)
    ended = running.end()
    assert ended.code == code
    assert ended.err.split() == f"{number.name}: stopped before training began".split()
    assert not (commands.folder / "run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_ends_the_run_at_once(commands: Commands, number: signal.Signals, code: int) -> None:
    running = commands.held(*WORDS)
    running.send(number)
    until(lambda: b"stopping after this step" in running.err.read_bytes())
    running.send(number)
    assert running.end().code == code
    assert not (commands.folder / "run/checkpoints/last.ckpt").exists()


def test_a_second_signal_ends_a_run_whose_main_thread_never_comes_back(commands: Commands) -> None:
    """Python calls its handlers in the main thread alone: a process stuck in an operation would ignore SIGTERM."""
    stuck = f"+callbacks.stuck={{_target_:holding.Stuck,folder:{commands.folder}}}"
    running = commands.start(*WORDS, stuck)
    until(lambda: (commands.folder / "here0").exists())
    running.send(signal.SIGTERM)
    until(lambda: b"stopping after this step" in running.err.read_bytes())
    running.send(signal.SIGTERM)
    assert running.end().code == 143


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_too_and_the_run_still_ends_in_order(commands: Commands) -> None:
    words = ("data._target_=loaded_digits.LoadedDigits", "+data.num_workers=2")
    running = commands.held(*SHORT, "run_dir=run", *words)
    assert len(running.living()) > 2
    running.send_to_all(signal.SIGINT)
    until(lambda: b"stopping after this step" in running.err.read_bytes())
    (commands.folder / "hold").unlink()
    ended = running.end()
    assert (ended.code, commands.saved()["global_step"]) == (130, 6)
    assert not running.living()


@pytest.mark.parametrize(
    "word", ["callbacks=minimal", pytest.param("trainer.enable_checkpointing=false", marks=pytest.mark.slow)]
)
def test_a_run_without_checkpoints_says_that_nothing_was_saved(commands: Commands, word: str) -> None:
    ended = commands.interrupted(signal.SIGTERM, *WORDS, word)
    assert ended.code == 143
    assert ended.last == "SIGTERM at step 6; nothing was saved"


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_a_grid_ends_as_a_whole(commands: Commands, number: signal.Signals, code: int) -> None:
    ended = commands.interrupted(number, "-m", *SHORT, "seed=0,1", "hydra.sweep.dir=out")
    assert ended.code == code
    assert ended.last.endswith("train.py resume=out/0")
    assert not (commands.folder / "out/1").exists()

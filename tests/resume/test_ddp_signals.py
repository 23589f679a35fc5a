"""Two real processes over gloo, of which one or both receive a signal: they stop together, and go on together."""

import signal

import pytest

from training_commands import REPOSITORY, UNHELD, Commands, assert_equal, until

WORDS = (
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=10",
    "data.batch_size=16",
    "run_dir=run",
)
pytestmark = pytest.mark.timeout(900)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(REPOSITORY / "train.py"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    commands = Commands(tmp_path_factory.mktemp("uninterrupted"))
    assert commands.run(*WORDS).code == 0
    return commands


@pytest.mark.parametrize(
    ("to", "number", "code"),
    [
        pytest.param("first", signal.SIGTERM, 143, marks=pytest.mark.slow),
        ("second", signal.SIGTERM, 143),
        pytest.param("second", signal.SIGUSR1, 143, marks=pytest.mark.slow),
        pytest.param("all", signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_all_stop_at_the_same_step_saved_once_and_go_on_equal_in_every_bit(
    commands: Commands, uninterrupted: Commands, to: str, number: signal.Signals, code: int
) -> None:
    running = commands.held(*WORDS, at="step:2", processes=2)
    first, second = running.children()
    if to == "all":
        running.send_to_all(number)
    else:
        running.send_to({"first": first, "second": second}[to], number)
    (commands.folder / "hold").unlink()
    ended = running.end()
    assert ended.code == code
    step = commands.saved()["global_step"]
    assert 2 < step < 30
    assert len(commands.saved()["loops"]["fit_loop"]["epoch_loop.state_dict"]["processes"]) == 2
    assert [line for line in ended.out.splitlines() if "at step" in line] == [
        f"{number.name} at step {step}; saved run/checkpoints/last.ckpt"
    ]
    assert ended.last.endswith("train.py resume=run")
    assert "Traceback" not in ended.err
    assert commands.result()["ended"] == f"interrupted by {number.name} at step {step}"
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


def test_processes_stop_together_amid_a_validation(commands: Commands, uninterrupted: Commands) -> None:
    ended = commands.interrupted(
        signal.SIGTERM, *WORDS, at="step:10,hook:on_validation_batch_start,batch:0", processes=2
    )
    assert (ended.code, commands.saved()["global_step"]) == (143, 10)
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


@pytest.mark.slow
def test_processes_stop_together_amid_the_test(commands: Commands, uninterrupted: Commands) -> None:
    ended = commands.interrupted(signal.SIGTERM, *WORDS, at="hook:on_test_batch_start,batch:0", processes=2)
    assert (ended.code, commands.result()["test"]) == (143, {})
    assert commands.type(ended.last).code == 0
    assert_equal(commands, uninterrupted)


def test_a_second_signal_leaves_no_process_behind(commands: Commands) -> None:
    running = commands.held(*WORDS, at="step:2", processes=2)
    running.send(signal.SIGTERM)
    until(lambda: b"stopping after this step" in running.err.read_bytes())
    running.send(signal.SIGTERM)
    until(lambda: not running.living(), timeout=20)
    assert running.end().code == 143


@pytest.mark.slow
def test_a_signal_before_training_begins_leaves_no_process_behind(commands: Commands) -> None:
    running = commands.held(*WORDS, at="hook:setup", processes=2)
    running.send(signal.SIGTERM)
    until(lambda: not running.living(), timeout=20)
    ended = running.end()
    assert ended.code == 143
    assert ended.err.splitlines()[-1] == "SIGTERM: stopped before training began"


@pytest.mark.slow
def test_torchrun_hands_a_signal_on_and_the_run_goes_on_under_it(commands: Commands, uninterrupted: Commands) -> None:
    running = commands.held(*WORDS, at="step:2", processes=2, program=TORCHRUN)
    running.send(signal.SIGTERM)
    until(lambda: b"stopping after this step" in running.err.read_bytes())
    (commands.folder / "hold").unlink()
    ended = running.end()
    assert ended.code != 0  # torchrun has a code of its own
    assert ended.last.endswith("train.py resume=run")
    assert 2 < commands.saved()["global_step"] < 30
    assert commands.run("resume=run", UNHELD, program=TORCHRUN).code == 0
    assert_equal(commands, uninterrupted)

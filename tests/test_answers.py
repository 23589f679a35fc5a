"""What a user reads when a word is wrong: one line that names the word and what to do instead."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from stepsize.answers import answer, leave, one_line_errors
from stepsize.check import check
from stepsize.config import CONF
from stepsize.data.errors import DataError
from stepsize.errors import ConfigError, TrainingStoppedError

Composed = Callable[..., DictConfig]
Command = Callable[..., subprocess.CompletedProcess[str]]

TYPED = [
    # a choice of each group
    ("optimizer=admaw", "optimizer=admaw: there is no such optimizer; did you mean adamw? There are: "),
    ("schedule=cosin", "schedule=cosin: there is no such schedule; did you mean cosine? There are: "),
    ("model=mpl", "model=mpl: there is no such model; did you mean mlp? There are: convnet, gpt, mlp"),
    ("data=digit", "data=digit: there is no such data; did you mean digits? There are: cifar10, digits, "),
    ("trainer=ddpp", "trainer=ddpp: there is no such trainer; did you mean ddp? There are: cpu, ddp, "),
    ("logger=cvs", "logger=cvs: there is no such logger; did you mean csv? There are: csv, none, tensorboard"),
    ("callbacks=minimum", "callbacks=minimum: there is no such callbacks; did you mean minimal? There are: "),
    # a key of each level
    ("optimzer=adamw", "optimzer: there is no such key; did you mean optimizer? There are: callbacks, "),
    ("sede=1", "sede: there is no such key; did you mean seed? There are: callbacks, "),
    ("optimizer.weigth_decay=0.1", "optimizer.weigth_decay: there is no such key; did you mean weight_decay? There"),
    ("schedule.warmup_fracton=0.1", "schedule.warmup_fracton: there is no such key; did you mean warmup_fraction? "),
    ("model.width=[8]", "model.width: there is no such key; did you mean widths? There are: dropout, widths"),
    ("data.batchsize=8", "data.batchsize: there is no such key; did you mean batch_size? There are: "),
    ("trainer.max_epoch=3", "trainer.max_epoch: there is no such key; did you mean max_epochs?"),
    ("logger.flush_sec=3", "logger.flush_sec: there is no such key; did you mean flush_secs? There are: flush_secs"),
    ("callbacks.progres.refresh_rate=1", "callbacks.progres: there is no such key; did you mean progress? There are: "),
    ("callbacks.progress.refresh=1", "callbacks.progress.refresh: there is no such key; did you mean refresh_rate?"),
    ("objective.metrc=val/loss", "objective.metrc: there is no such key; did you mean metric? There are: metric, mode"),
    ("task.label_smooth=0.1", "task.label_smooth: there is no such key; did you mean label_smoothing? There are: "),
    ("param_groups.pattern=[]", "param_groups.pattern: there is no such key; did you mean patterns? There are: "),
    ("optimizer.lr.x=1", "optimizer.lr"),
    ("+optimizer.foo=1", "optimizer.foo: AdamW has no such argument; There are: amsgrad, betas, "),
    # a type
    ("optimizer.lr=fast", "optimizer.lr: Value 'fast' of type 'str' could not be converted to Float"),
    ("optimizer.betas=[a,b]", "optimizer.betas[0]: Value 'a' of type 'str' could not be converted to Float"),
    ("optimizer.lr=null", "optimizer.lr: field 'optimizer.lr' is not Optional"),
    ("data.batch_size=1.5", "data.batch_size: Value '1.5' of type 'float' could not be converted to Integer"),
    ("compile=maybe", "compile: Value 'maybe' is not a valid bool"),
    ("objective.mode=mni", "objective.mode: Invalid value 'mni', expected one of [min, max]"),
    ("logger=null", "a group takes one of its words, not null"),
    # a range
    ("schedule.warmup_fraction=1.5", "schedule: warmup_fraction must be in [0, 1], got 1.5"),
    ("schedule.warmup_steps=-1", "schedule: warmup_steps must be in [0, inf), got -1"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1.0"),
    ("optimizer.betas=[0.9,2]", "optimizer: Invalid beta parameter at index 1: 2.0"),
    ("optimizer.betas=[0.9]", "optimizer.betas: AdamW takes 2 values, got [0.9]"),
    ("data.batch_size=0", "data: batch_size must be at least 1, got 0"),
    ("param_groups.layer_decay=2", "param_groups: layer_decay must be in (0, 1], got 2.0"),
    # the grammar
    ("optimizer.lr", "optimizer.lr: cannot be read; Error parsing override 'optimizer.lr'; missing EQUAL"),
    ("optimizer.lr=[", "optimizer.lr=[: cannot be read; no viable alternative at input '['"),
    ("~optimizer", "optimizer: a run needs one"),
    ("optimizer=custom", "optimizer._target_: must be given"),
]


@pytest.fixture
def refused(composed: Composed) -> Callable[..., str | None]:
    """The answer to words that composition or the check refuses."""

    def answered(*words: str) -> str | None:
        with pytest.raises(Exception) as error:  # noqa: PT011 - which one it is, is what `answer` has to find out
            check(composed(*words))
        return answer(error.value)

    return answered


@pytest.fixture
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HYDRA_FULL_ERROR", "STEPSIZE_ONE_LINE_ERRORS"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("word", "expected"), TYPED, ids=[word for word, _ in TYPED])
def test_a_wrong_word_is_answered_by_name(refused: Callable[..., str], word: str, expected: str) -> None:
    assert refused(word).startswith(expected)


@pytest.mark.parametrize("word", [word for word, _ in TYPED])
def test_an_answer_is_one_line_that_shows_nothing_of_the_machinery(refused: Callable[..., str], word: str) -> None:
    said = refused(word)
    assert [hint for hint in ("\n", "object_type", "full_key", "/conf", "Traceback") if hint in said] == []


@pytest.mark.parametrize(
    "error", [ConfigError("no\n  way"), DataError("no\nway"), TrainingStoppedError("no\n\nway\n")], ids=repr
)
def test_an_error_of_ours_for_the_user_is_its_message_in_one_line(error: Exception) -> None:
    assert answer(error) == "no; way"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x"), AssertionError()], ids=repr)
def test_any_other_error_is_no_answer_and_keeps_its_traceback(error: Exception) -> None:
    assert answer(error) is None


def test_an_unresolvable_interpolation_names_its_key() -> None:
    with pytest.raises(Exception, match="nothing") as error:
        print(OmegaConf.create({"a": {"b": "${nothing}"}}).a.b)
    assert "a.b" in str(answer(error.value))


def test_a_choice_that_lies_in_a_deeper_group_is_named_by_its_word() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(Exception, match="stepsiz") as error:
        compose("train", ["hydra/job_logging=stepsiz"])
    assert str(answer(error.value)).startswith(
        "hydra/job_logging=stepsiz: there is no such job_logging; did you mean stepsize?"
    )


@pytest.mark.usefixtures("unchanged_environment")
def test_a_command_ends_in_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> None:
        raise ConfigError("cannot work")

    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, *capsys.readouterr()) == (1, "", "error: cannot work\n")


@pytest.mark.usefixtures("unchanged_environment")
def test_a_defect_ends_in_its_traceback_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> None:
        raise ZeroDivisionError("ours")

    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err
    assert (ended.value.code, printed.split("\n")[0], printed.split("\n")[-2]) == (
        1,
        "Traceback (most recent call last):",
        "ZeroDivisionError: ours",
    )


def test_the_full_error_is_a_traceback_where_it_was_asked_for(
    unchanged_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged_environment.setenv("HYDRA_FULL_ERROR", "1")

    @one_line_errors
    def main() -> None:
        raise ConfigError("cannot work")

    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().err
    assert (printed.splitlines()[0], printed.splitlines()[-1]) == (
        "Traceback (most recent call last):",
        "stepsize.errors.ConfigError: cannot work",
    )


def test_a_process_that_a_run_starts_answers_in_one_line_too(
    unchanged_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @one_line_errors
    def main() -> None:
        raise ConfigError("cannot work")

    with pytest.raises(SystemExit):
        main()  # leaves both variables set, which a process that it starts inherits
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: cannot work\n"


@pytest.mark.usefixtures("unchanged_environment")
def test_what_a_command_returns_is_passed_on() -> None:
    assert one_line_errors(lambda: 0.5)() == 0.5


@pytest.mark.usefixtures("unchanged_environment")
def test_an_interrupt_is_answered_with_a_word_and_the_code_of_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        main()
    assert capsys.readouterr().err == "interrupted\n"


def test_leaving_is_an_exit_so_that_no_callback_of_hydra_s_swallows_it() -> None:
    with pytest.raises(SystemExit):
        leave(ConfigError("x"))


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=admaw",),
        ("optimizer.weigth_decay=0.1",),
        ("optimizer=custom", "optimizer._target_=torch.optim.Muon"),
    ],
    ids=" ".join,
)
def test_a_refused_command_prints_one_line_and_leaves_nothing_behind(
    command: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = command(*words)
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(said), said[0][:7], [*tmp_path.iterdir()]) == (1, "", 1, "error: ", [])


def test_an_error_found_only_when_the_run_is_built_is_one_line_too(command: Command) -> None:
    done = command("model.dropout=2", "trainer=cpu")
    assert (done.returncode, done.stderr) == (1, "error: model: dropout must be in [0, 1), got 2.0\n")


def test_a_process_that_joined_a_trial_ends_without_an_error_where_training_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEPSIZE_TRIAL", "study:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit, match=r"^0$"):
        leave(TrainingStoppedError("the loss is not finite"))
    with pytest.raises(SystemExit, match=r"^1$"):
        leave(ConfigError("trainer: no"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit, match=r"^1$"):
        leave(TrainingStoppedError("the loss is not finite"))

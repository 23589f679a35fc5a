"""The report is one page that opens offline, says what was found, and is written whole or not at all."""

import math
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from stepsize.sweep import report
from stepsize.sweep.results import ArmResult, State, SweepResult, TrialResult

INF = math.inf
LION = {1: 0.070, 2: 0.072, 3: 0.071, 4: 0.073}
SGD = {1: 0.120, 2: 0.123, 3: 0.119, 4: 0.124}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are drawn fast."""
    monkeypatch.setattr(report, "DPI", 30)


class Page(HTMLParser):
    """What a page holds: ids, addresses, text, and whether every element is closed."""

    void = frozenset({"meta", "br", "link", "img"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in self.void else [tag]
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.addresses += [value or ""] if name in ("href", "src", "xlink:href", "data", "action") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def text(self) -> str:
        return " ".join(self.words.split())


def an_arm(name: str = "", confirmed: dict[int, float] | None = None, **more: object) -> ArmResult:
    found = {1e-4: 0.4, 1e-3: 0.07, 1e-2: 0.2, 1e-1: INF}
    trials = tuple(
        TrialResult(
            i,
            State.complete if math.isfinite(v) else State.diverged,
            v,
            {"optimizer.lr": lr},
            {20: v + 1, 40: v},
            seconds=2.0,
            folder=f"a b/{i}",
            reason="" if math.isfinite(v) else "train/loss is nan",
        )
        for i, (lr, v) in enumerate(found.items())
    )
    command = f"python train.py optimizer={name or 'lion'} optimizer.lr=0.001"
    arm = ArmResult(
        name, (), trials, "optimizer.lr", 1e-5, 1.0, at_init=2.3, confirmed=confirmed or {}, command=command
    )
    return replace(arm, **more)


def swept(*arms: ArmResult, n_trials: int = 4) -> SweepResult:
    command = "python train.py -m sweep=lr"
    return SweepResult("study", "val/loss", "min", n_trials, arms, "grid", "none", command, {"torch": "2.13.0"})


def written(sweep: SweepResult, folder: Path) -> Page:
    return Page(report.write(sweep, folder))


def test_the_answer_and_the_command_come_first(tmp_path: Path) -> None:
    text = written(swept(an_arm()), tmp_path).text
    body = text[text.index("study") :]
    order = [
        body.index(words)
        for words in (
            "Best: lr 1.000e-03, val/loss 0.07000",
            "python train.py optimizer=lion optimizer.lr=0.001",
            "lr sensitivity",
            "Figures",
            "python train.py -m sweep=lr",
            "Trials",
            "2.13.0",
        )
    ]
    assert order == sorted(order)


def test_every_figure_is_in_the_page_and_beside_it(tmp_path: Path) -> None:
    page = written(swept(an_arm("lion", LION), an_arm("sgd", SGD)), tmp_path)
    names = ["budget", "curves", "rate", "seeds"]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [f"{name}.png" for name in names]
    assert page.tags.count("svg") == page.tags.count("figcaption") == 4
    assert (tmp_path / "plots" / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = written(swept(an_arm("lion", LION), an_arm("sgd", SGD)), tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    followed = [a for a in page.addresses if not a.startswith("#")]
    assert [a for a in followed if "://" in a] == ["https://arxiv.org/abs/2309.14322"]  # read by a person only
    assert "@import" not in page.source
    assert page.source.count("url(") == page.source.count("url(#")


def test_ids_are_unique_and_those_referred_to_exist(tmp_path: Path) -> None:
    page = written(swept(an_arm("lion", LION), an_arm("sgd", SGD)), tmp_path)
    assert len(page.ids) == len(set(page.ids)) > 50
    inner = [a[1:] for a in page.addresses if a.startswith("#")]
    inner += [part.split(")")[0] for part in page.source.split("url(#")[1:]]
    assert len(inner) > 50
    assert set(inner) <= set(page.ids)


def test_figures_take_the_colours_of_the_page(tmp_path: Path) -> None:
    source = written(swept(an_arm()), tmp_path).source
    svg = source[source.index("<svg") : source.rindex("</svg>")]
    assert "currentColor" in svg
    assert "#1b1f24" not in svg
    assert "#ffffff" not in svg


def test_every_element_is_closed(tmp_path: Path) -> None:
    page = written(swept(an_arm("lion", LION), an_arm("sgd", SGD)), tmp_path)
    assert page.open == []
    for part in page.source.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part[: part.index("</svg>")] + "</svg>")


def test_what_users_wrote_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'{{ 7 * 7 }}"
    failed = TrialResult(9, State.failed, None, {"<i>p": evil}, folder=evil, reason=evil)
    arm = an_arm(evil, LION, command=evil)
    sweep = swept(replace(arm, trials=(*arm.trials, failed)), an_arm("sgd", SGD))
    page = written(replace(sweep, name=evil, metric="<b>m", facts={evil: evil}, command=evil), tmp_path)
    assert not {"script", "i"} & set(page.tags)
    assert page.tags.count("b") == 5  # of the explanations
    assert f"failed: {evil}" in page.text


def test_a_trial_links_to_its_folder(tmp_path: Path) -> None:
    assert "a%20b/1/" in written(swept(an_arm()), tmp_path).addresses


def test_trials_are_listed_the_best_first(tmp_path: Path) -> None:
    page = written(swept(an_arm()), tmp_path)
    assert [a for a in page.addresses if a.startswith("a%20b")] == [f"a%20b/{i}/" for i in (1, 2, 0, 3)]


@pytest.mark.parametrize(
    ("arm", "answer"),
    [
        (an_arm(trials=(), command=""), "No trial is complete yet."),
        (an_arm(trials=(TrialResult(0, State.running, params={"optimizer.lr": 1e-3}),)), "No trial is complete yet."),
        (
            an_arm(trials=(TrialResult(0, State.diverged, INF, {"optimizer.lr": 1e-3}),)),
            "All 1 finished trials diverged.",
        ),
        (an_arm(trials=an_arm().trials[:1]), "Best: lr 1.000e-04, val/loss 0.4000"),
        (an_arm(rate=None, low=None, high=None), "Best: lr 0.001, val/loss 0.07000"),
    ],
    ids=["none", "running", "all diverged", "one", "no learning rate"],
)
def test_a_page_is_made_of_whatever_there_is(tmp_path: Path, arm: ArmResult, answer: str) -> None:
    page = written(swept(arm), tmp_path)
    assert answer in page.text
    assert page.open == []


def test_the_note_says_over_what_the_numbers_of_the_table_are(tmp_path: Path) -> None:
    text = written(swept(an_arm("lion", LION), an_arm("sgd", SGD)), tmp_path).text
    assert "on average (in logarithms) over the learning rates that were tried" in text
    assert "≥ where it reaches the lowest or highest that was tried" in text
    assert "time: of the search's trials." in text


@pytest.mark.parametrize(("wanted", "said"), [(5, "8 of 10 trials"), (4, "8 of 8 trials"), (3, "8 trials")])
def test_no_more_trials_have_finished_than_were_wanted(tmp_path: Path, wanted: int, said: str) -> None:
    page = written(swept(an_arm("lion"), an_arm("sgd"), n_trials=wanted), tmp_path)
    assert f" {said} finished · 16.0 s of training" in page.text


def test_eight_arms_fit_on_a_page(tmp_path: Path) -> None:
    page = written(swept(*(an_arm(f"arm{i}", LION if i < 5 else None) for i in range(8))), tmp_path)
    assert page.text.count("python train.py optimizer=arm") == 9


def test_the_same_sweep_gives_the_same_page(tmp_path: Path) -> None:
    sweep = swept(an_arm(exchangeable=True))
    assert written(sweep, tmp_path).source == written(sweep, tmp_path).source


def test_a_report_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = written(swept(an_arm()), tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    save = Figure.savefig

    def half(self: Figure, file: object, **options: object) -> None:
        save(self, file, **options)  # type: ignore[arg-type]
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="no space"):
        report.write(swept(an_arm(at_init=9.0)), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert page.source.encode() in before.values()


def test_a_figure_that_is_gone_leaves_no_picture(tmp_path: Path) -> None:
    written(swept(an_arm("a", LION), an_arm("b", SGD)), tmp_path)
    written(swept(an_arm("a"), an_arm("b")), tmp_path)
    assert sorted(p.stem for p in (tmp_path / "plots").iterdir()) == ["budget", "curves", "rate"]


def test_hundreds_of_trials_take_seconds(tmp_path: Path) -> None:
    def trial(i: int) -> TrialResult:
        params = {"optimizer.lr": 10 ** (-4 + 3 * i / 500), "dropout": (i * 37 % 100) / 200}
        curve = {20 * k: 2 / k for k in range(1, 20)}
        return TrialResult(i, State.complete, abs(i - 200) / 200 + params["dropout"], params, curve, 1.0, str(i))

    sweep = swept(an_arm(trials=tuple(map(trial, range(500))), exchangeable=True), n_trials=500)
    report.write(swept(an_arm()), tmp_path)  # imports
    started = time.process_time()
    page = written(sweep, tmp_path)
    assert time.process_time() - started < 8  # seconds of one core; about 2 of a new one
    assert page.tags.count("tr") > 500

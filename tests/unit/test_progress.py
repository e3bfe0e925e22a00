"""How far a survey has come: one line, on a terminal, once it has taken a while."""

from __future__ import annotations

from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest

from pytest_falsify._progress import Progress
from pytest_falsify.compare.rates import Rate


class Terminal:
    """What pytest's reporter does of a terminal, as text."""

    def __init__(self, *, isatty=True):
        self.isatty, self.text, self.taken, self.flushed = isatty, "", True, 0

    def put(self, text):
        assert not self.taken, "pytest would have captured this"
        self.text += text

    def ensure_newline(self):
        self.put("\n")

    def rewrite(self, line, *, erase):
        self.put(f"\r{line}{' ' * (30 if erase else 0)}")

    def write(self, text):
        self.put(text)

    def write_line(self, line):
        self.put(f"{line}\n")

    def flush(self):
        assert not self.taken
        self.flushed += 1

    @contextmanager
    def global_and_fixture_disabled(self):
        self.taken = False
        yield
        self.taken = True


@pytest.fixture
def terminal():
    return Terminal()


def progress(terminal, clock, **more):
    return Progress(
        **more,
        falsifier="FALSIFY-X-001",
        confidence=0.95,
        reporter=terminal,
        capturing=terminal,
        clock=clock,
    )


def test_the_line_says_how_many_differ_and_how_many_may(terminal):
    line = progress(terminal, float).line(120, 420, Rate(count=3, total=120))
    assert line == "FALSIFY-X-001: 120/420 prompts, 3 differ, upper bound 7.1 %"
    assert progress(terminal, float).line(1, 9, None) == "FALSIFY-X-001: 1/9 prompts"


def test_a_short_survey_says_nothing(terminal):
    with closing(progress(terminal, lambda: 1.0)) as told:
        told(1, 2, None)
        told(2, 2, None)
    assert terminal.text == ""


def test_a_long_one_keeps_one_line_and_takes_it_away(terminal):
    seconds = iter([0.0, 1.9, 2.1, 2.1, 2.2, 2.4, 2.4])
    with closing(progress(terminal, lambda: next(seconds))) as told:
        for done in (1, 2, 3, 4):
            told(done, 9, None)
    told_of = [part.strip() for part in terminal.text.split("\r")]
    assert told_of == ["", "FALSIFY-X-001: 2/9 prompts", "FALSIFY-X-001: 4/9 prompts", "", ""]
    assert terminal.text.startswith("\n")
    assert terminal.flushed == 5


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 2), (False, 0)])
def test_what_to_know_is_said_once_and_stays_also_where_no_line_can_be_taken_away(
    terminal, is_terminal, lines
):
    clock = iter([0.0, *(each for second in range(1, 9) for each in (3.0 * second,) * 2)])
    more = {"note": "killed, it would begin anew", "is_terminal": is_terminal}
    with closing(progress(terminal, lambda: next(clock), **more)) as told:
        told(1, 2, None)
        told(2, 2, None)
    assert terminal.text.count("FALSIFY-X-001: killed, it would begin anew\n") == 1
    assert terminal.text.count("prompts") == lines


def test_nothing_to_know_is_not_said_where_no_line_can_be_taken_away(terminal):
    with closing(progress(terminal, iter(range(0, 99, 9)).__next__, is_terminal=False)) as told:
        told(1, 2, None)
    assert terminal.text == ""


def test_an_error_takes_the_line_away_too(terminal):
    told = progress(terminal, iter([0.0, 5.0, 5.0]).__next__)
    with pytest.raises(ZeroDivisionError), closing(told):
        told(1, 2, Rate(count=1, total=0))
    assert terminal.text.endswith("\r")


@pytest.mark.parametrize(
    ("isatty", "worker", "ci", "is_seen"),
    [
        (True, False, "", True),
        (False, False, "", False),
        (True, True, "", False),
        (True, False, "true", False),
    ],
)
def test_only_a_person_at_a_terminal_is_told_how_far_it_is(
    monkeypatch, isatty, worker, ci, is_seen
):
    monkeypatch.setenv("CI", ci)
    plugins = {"terminalreporter": Terminal(isatty=isatty), "capturemanager": None}
    config = SimpleNamespace(pluginmanager=SimpleNamespace(getplugin=plugins.get))
    if worker:
        config.workerinput = {}
    found = Progress.of(config, "FALSIFY-X-001", 0.95)
    assert (found.reporter is not None and found.is_terminal) is is_seen


@pytest.mark.parametrize(("worker", "ci"), [(True, ""), (False, "true")])
def test_workers_and_ci_are_told_nothing(monkeypatch, worker, ci):
    monkeypatch.setenv("CI", ci)
    plugins = {"terminalreporter": Terminal(isatty=False), "capturemanager": None}
    config = SimpleNamespace(pluginmanager=SimpleNamespace(getplugin=plugins.get))
    if worker:
        config.workerinput = {}
    assert Progress.of(config, "FALSIFY-X-001", 0.95, note="a note").reporter is None

"""What is said of a loop while it runs: after some seconds only, of the outermost one, and nothing with --quiet."""

import contextlib
import re
import threading
import time

import pytest
from tqdm import tqdm

from utils import progress as module
from utils.progress import progress, progress_line, say, show_progress, steps, time_in_words


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(module, "FIRST_LINE", 0.05)
    yield
    show_progress(True)


def until_said(capsys, pause=0.01):
    """What is printed, as soon as something is."""
    deadline = time.monotonic() + 20
    said = ""
    while not said and time.monotonic() < deadline:
        time.sleep(pause)
        said = capsys.readouterr().out
    return said


def test_a_slow_loop_says_how_far_it_is_and_how_long_it_will_take(capsys):
    done = []
    for item in progress(["a", "b", "c"], "work"):
        done.append(item)
        if item == "b":
            assert until_said(capsys).startswith("work: 1 of 3, about 0 s left\n")
    assert done == ["a", "b", "c"]


def test_a_fast_loop_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(module, "FIRST_LINE", 60)
    assert list(progress(range(1000), "work")) == list(range(1000))
    assert capsys.readouterr().out == ""


def test_a_line_at_once_is_followed_by_a_pause(capsys, monkeypatch):
    monkeypatch.setattr(module, "FIRST_LINE", 0)
    start = time.monotonic()
    with steps("work", 3):
        time.sleep(0.1)
    assert capsys.readouterr().out.count("\n") <= 1 + (time.monotonic() - start) / 1.5


def test_of_loops_within_each_other_the_outermost_speaks(capsys):
    with steps("outer", 2), steps("inner", 7) as advance:
        advance()
        assert until_said(capsys).startswith("outer: 0 of 2\n")
    with steps("inner", 7):
        assert until_said(capsys).startswith("inner: 0 of 7\n")


def test_a_loop_that_fails_lets_the_next_one_speak(capsys):
    with pytest.raises(ZeroDivisionError), steps("first", 1):
        raise ZeroDivisionError
    with steps("second", 1):
        assert "second, 0 s so far" in until_said(capsys)
    assert not [thread for thread in threading.enumerate() if "_speak" in thread.name]


def test_quiet_leaves_results_alone(capsys):
    show_progress(False)
    say("on the way")
    with steps("work", 3):
        time.sleep(0.2)
    print("a result")
    assert capsys.readouterr().out == "a result\n"


@pytest.mark.parametrize(
    ("total", "done", "done_now", "seconds", "said"),
    [
        (10, 0, 0, 5.0, "work: 0 of 10"),
        (10, 2, 2, 5.0, "work: 2 of 10, about 20 s left"),
        (2000, 1000, 500, 600.0, "work: 1,000 of 2,000, about 20 min left"),  # half was done by an earlier run
        (None, 0, 0, 12.0, "work, 12 s so far"),
    ],
)
def test_the_line(total, done, done_now, seconds, said):
    assert progress_line("work", total, done, done_now, seconds) == said


def test_times():
    assert [time_in_words(seconds) for seconds in (0.4, 99, 600, 7200)] == ["0 s", "99 s", "10 min", "2.0 h"]


def test_the_bar_has_room_on_a_narrow_terminal():
    shown = []
    text = "generation 12, a long description of what is done here, chromosomes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
        patch.setattr(module, "tqdm", lambda **given: shown.append(given) or contextlib.nullcontext(given))
        with contextlib.suppress(AttributeError), steps(text, 10_000):
            pass
        (given,) = shown
    line = tqdm.format_meter(
        3000, given["total"], 4000.0, ncols=80, prefix=given["desc"], bar_format=given["bar_format"]
    )
    assert len(line) <= 80 and len(re.search(r"\|(.*)\|", line)[1]) >= 10

import io
import sys

import pytest

from vila2data.console import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_stands_beside_a_bar_is_asked_whenever_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    told = ["nothing yet"]
    with progress("round1", total=5000, unit=None, live=lambda: told[-1]) as done:
        told.append("38 images/s · 2,610 tok/s · engine busy 97 % · kept 98.6 % · 3 failures")
        done(412)
    assert "nothing yet" in terminal.getvalue()
    last = terminal.getvalue()[terminal.getvalue().rindex("round1") :]
    assert "412/5000" in last
    assert told[-1] in last


def test_without_a_terminal_nothing_is_asked_and_nothing_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def live() -> str:
        asked.append(1)
        return "told"

    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress("round1", total=5, unit=None, live=live) as done:
        done(5)
    assert (asked, quiet.getvalue()) == ([], "")

"""What the command line shows: results on stdout, progress and errors on stderr."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from .shown import shown

_WIDTH_WITHOUT_TERMINAL = 160


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, count: int, told: str = "") -> None:
        """Adds ``count`` units of finished work; ``told`` stands beside the bar."""


@dataclass(frozen=True, slots=True)
class _Live:
    """A text that is asked for whenever it is drawn."""

    told: Callable[[], str]

    def __rich__(self) -> Any:
        from rich.text import Text

        # The text is cut where the terminal is narrow; its column may give way, the others do not.
        return Text(self.told(), no_wrap=True, overflow="ellipsis")


@contextmanager
def progress(
    what: str,
    *,
    total: int | None,
    unit: str | None,
    begun: int = 0,
    live: Callable[[], str] | None = None,
) -> Iterator[Advance]:
    """A bar with rate and remaining time on stderr; silent where stderr is no terminal.

    Args:
        what: is done.
        total: units of work, None where that is not known.
        unit: name of a unit, plural; no rate is shown where None.
        begun: units that were finished before.
        live: what stands beside the bar, asked whenever it is drawn, from another thread.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        RenderableColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    beside = [RenderableColumn(_Live(live))] if live else []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20 if live else 40),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[told]}"),
        *beside,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        number = bar.add_task(what, total=total, completed=begun, rate="", told="")

        def advance(count: int, told: str = "") -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:,.1f} {unit}/s" if speed and unit else ""
            bar.update(number, advance=count, rate=rate, told=told)

        yield advance


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None
) -> None:
    """A table on stdout, numbers to the right; bounded in width where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table()
    for position, column in enumerate(columns):
        cells = [row[position] for row in rows if row[position] is not None]
        is_numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    if title:
        say(f"\n{title}")  # not the table's own, which would be folded to the table's width
    if sys.stdout.isatty():
        Console().print(table)
    else:
        wanted = Console(width=10_000).measure(table).maximum
        Console(width=min(wanted, _WIDTH_WITHOUT_TERMINAL)).print(table)


def show_json(content: Any) -> None:
    """JSON on stdout, for programs."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def show_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """CSV on stdout."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    sys.stdout.write(buffer.getvalue())


def say(text: str) -> None:
    """One line of result on stdout, as it is."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """An error on stderr, as it is."""
    sys.stderr.write(f"error: {text}\n")

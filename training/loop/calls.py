"""Runs commands of ``vila2data`` without starting it anew: torch alone takes seconds to load."""

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from vila2data.errors import RunFailed
from vila2data.executor import end_with_parent

Call = Callable[[Sequence[str]], None]
"""Runs one command, given what stands after ``vila2data``; raises where it fails."""

_APART = ("build",)


def call_here(arguments: Sequence[str]) -> None:
    """Runs a command in this process; a build in one beside it, which ends with this one: where
    torch was loaded, what DuckDB holds in a builder's process is told as leaked at its end.

    Raises:
        Vila2DataError: the command failed.
    """
    if arguments[0] not in _APART:
        _call(arguments)
        return
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        try:
            pool.submit(_call, list(arguments)).result()
        except BrokenProcessPool as error:
            raise RunFailed(
                f"`{_told(arguments)}` was killed, by the system where memory ran out; what is "
                "finished stays: run the same command again"
            ) from error


def _call(arguments: Sequence[str]) -> None:
    from typer.main import get_command

    from vila2data.cli import app

    status = get_command(app)(args=list(arguments), prog_name="vila2data", standalone_mode=False)
    if status:
        raise RunFailed(f"`{_told(arguments)}` ended with status {status}")


def _told(arguments: Sequence[str]) -> str:
    return shlex.join(["vila2data", *arguments])

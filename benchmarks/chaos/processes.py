"""Processes that this one started, directly or not, so that nobody else's are met; and waits."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE_S = 600.0  # the machine may have other work


def wait_for(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.01)


def descendants(ancestor: int, with_text: str = "") -> list[psutil.Process]:
    """Those of a process whose command line holds a text; an actor of Ray has its class there."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(ancestor).children(recursive=True)
        return [process for process in below if with_text in _command_line(process)]
    return []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_all(victims: list[psutil.Process]) -> int:
    """Kills at once, and returns how many were alive until then, when all are gone."""
    alive = [process for process in victims if _lives(process)]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not any(map(_lives, alive)), "killed processes to be gone")
    return len(alive)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def holds_file_in(process_id: int, folder: Path) -> bool:
    """Whether a process has a file of ``folder`` open, as who works on a run has its lock."""
    with suppress(psutil.Error):
        return any(
            folder in Path(file.path).parents for file in psutil.Process(process_id).open_files()
        )
    return False

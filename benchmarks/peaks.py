"""Runs a process and watches how much memory it and its workers take."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Watched:
    """What a process printed, and the peaks of resident memory.

    Attributes:
        printed: its last line.
        driver_mib: of the process itself.
        worker_mib: of its largest child, 0 where it had none.
    """

    printed: str
    driver_mib: float
    worker_mib: float


def watched(*arguments: str) -> Watched:
    """Runs Python with these arguments to its end."""
    running = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    peaks: dict[int, float] = {}
    while running.poll() is None:
        for pid in [running.pid, *_children(running.pid)]:
            peaks[pid] = max(peaks.get(pid, 0.0), _peak_mib(pid))
        time.sleep(_POLL_S)
    assert running.stdout is not None
    printed = running.stdout.read().strip().rpartition("\n")[2]
    driver = peaks.pop(running.pid)
    return Watched(printed, driver, max(peaks.values(), default=0.0))


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return []


def _peak_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

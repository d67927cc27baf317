"""Runs one program, and ends it and all its processes with whoever started it.

``python leash.py PROGRAM [ARGUMENT ...]``, in a session of its own, with a pipe as standard input
whose other end its parent keeps open and never writes to. Where that end closes, the parent is
gone, be it by ``kill -9``: the program's process group is asked to end, and killed after a while.

A process of the standard library alone, which imports nothing of the package, since it lives as
long as the program.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Thread

END_S = 15.0
"""From the polite signal to the kill."""


def main(command: Sequence[str]) -> None:
    """Ends with the status of ``command``, or by the signal that ended it."""
    # The group's signals are for the program. Not ignored: it would ignore them, too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    orphaned = Event()
    Thread(target=_end_after_parent, args=(orphaned,), daemon=True).start()
    status = program.wait()
    if orphaned.is_set():
        os.killpg(0, signal.SIGKILL)  # what outlives the program, and this process
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program left one if it was to
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _end_after_parent(orphaned: Event) -> None:
    while os.read(0, 1):
        pass
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(END_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])

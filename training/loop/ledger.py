"""The folder of a seed: which stages are done, bound to what shapes them.

run.json       what the seed is bound to
stages.json    the stages that are done, in order, with their commands and seconds
"""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vila2data.console import say
from vila2data.errors import RunRefused
from vila2data.files import write_text
from vila2data.runfolder import locked, read_shaping, refuse_differences, write_shaping

from .calls import Call
from .plan import Planner
from .stages import Stage

STAGES_FILE = "stages.json"
_REMEDY = "Set them back, or give another `out`"


class Ledger:
    """The stages of a seed that are done."""

    def __init__(self, folder: Path) -> None:
        """Reads what is done.

        Raises:
            RunRefused: the file was damaged.
        """
        self._file = folder / STAGES_FILE
        self._done: dict[str, dict[str, Any]] = {}
        if self._file.is_file():
            self._done = _read(self._file)

    def seconds(self, stage: Stage) -> float | None:
        """How long a stage took, by the call that ended it; None where it is not done."""
        done = self._done.get(stage.name)
        return None if done is None else float(done["seconds"])

    def run(self, stage: Stage, call: Call) -> None:
        """Runs a stage, and shows it, unless it is done.

        Raises:
            Vila2DataError: what the command raised.
        """
        if stage.name in self._done:
            return
        told = shlex.join(["vila2data", *stage.arguments])
        say(f"\n$ {told}")
        began_s = time.monotonic()
        if not stage.is_built:  # killed between the build and its note
            call(stage.arguments)
        seconds = round(time.monotonic() - began_s, 1)
        self._done[stage.name] = {"command": told, "seconds": seconds}
        write_text(self._file, json.dumps(self._done, indent=2, ensure_ascii=False) + "\n")


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        done = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(name): {**told, "seconds": float(told["seconds"])} for name, told in done.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunRefused(
            f"{file}: cannot be read as stages that are done ({error}); remove it: what is "
            "finished is not made again"
        ) from error


@contextmanager
def opened(planner: Planner) -> Iterator[Ledger]:
    """The ledger of a seed, kept from other processes.

    Raises:
        RunRefused: the folder belongs to other settings, or another process works there.
    """
    shaping = planner.shaping()
    with locked(planner.folder):
        begun = read_shaping(planner.folder)
        if begun is None:
            write_shaping(planner.folder, shaping)
        else:
            refuse_differences(planner.folder, begun, shaping, remedy=_REMEDY)
        yield Ledger(planner.folder)

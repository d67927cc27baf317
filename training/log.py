"""What a run tells while it goes on: ``log.jsonl``, and its sums for the manifest."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from vila2data.errors import RunFailed
from vila2data.files import write_text

from .feed.feed import COUNTS
from .manifest import Metrics

LOG_FILE = "log.jsonl"


@dataclass
class Log:
    """The rows of a run's log; the first process writes them.

    Attributes:
        file: gets one line of JSON per row.
        metrics: sums of all rows, those before the resumed step among them.
        on_row: told each row, and how many steps it stands for.
        writes: whether this process writes the file.
        step: of the newest row.
        seconds: of all rows that this process made.
    """

    file: Path
    metrics: Metrics = field(default_factory=Metrics)
    on_row: Callable[[Mapping[str, Any], int], None] = lambda row, steps: None
    writes: bool = True
    step: int = 0
    seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _last: float = 0.0

    def begin(self) -> None:
        """Starts the clock, and drops rows after ``step``: they will be made again."""
        self._last = self.clock()
        if not self.writes or not self.file.is_file():
            return
        lines = self.file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= self.step]
        write_text(self.file, "".join(f"{line}\n" for line in kept))

    def add(self, step: int, told: Mapping[str, float], counts: Sequence[int]) -> dict[str, Any]:
        """Adds the row of the steps since the last one, and returns it.

        Args:
            step: that was just done.
            told: loss, learning_rate and grad_norm.
            counts: of these steps, as ``COUNTS`` names them.

        Raises:
            RunFailed: the loss is no number any more.
        """
        now = self.clock()
        counted = dict(zip(COUNTS, counts, strict=True))
        row = {
            "step": step,
            **{name: told[name] for name in ("loss", "learning_rate", "grad_norm") if name in told},
            **counted,
            "seconds": round(now - self._last, 4),
        }
        steps, self.step = step - self.step, step
        self.seconds += now - self._last
        self._last = now
        if not isfinite(told["loss"]):
            raise RunFailed(
                f"step {step}: the loss is {told['loss']}; finished checkpoints stay. "
                "Lower optimisation.learning_rate, or look at the samples of these steps"
            )
        self.metrics = _added(self.metrics, counted, told["loss"])
        if self.writes:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self.on_row(row, steps)
        return row


def _added(metrics: Metrics, counted: Mapping[str, int], loss: float) -> Metrics:
    sums = {name: getattr(metrics, name) + count for name, count in counted.items()}
    first = loss if metrics.first_loss is None else metrics.first_loss
    return Metrics(**sums, first_loss=first, last_loss=loss)


def _step_of(line: str) -> float:
    """Of a row; infinite for a line that a killed process cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

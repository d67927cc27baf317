"""Counts of what a step read, wrote and refused."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import CountsDoNotBalance


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one shard or all: ``read`` = ``written`` + sum of ``rejected`` + ``not_sampled``."""

    read: int = 0
    written: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    not_sampled: int = 0

    def check(self, where: str) -> None:
        """Raises ``CountsDoNotBalance`` where samples were lost or invented."""
        accounted = self.written + sum(self.rejected.values()) + self.not_sampled
        if self.read != accounted:
            raise CountsDoNotBalance(
                f"{where}: read {self.read}, but written {self.written} + rejected "
                f"{sum(self.rejected.values())} + not sampled {self.not_sampled} = {accounted}"
            )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.read + other.read,
            self.written + other.written,
            tally(Counter(self.rejected) + Counter(other.rejected)),
            self.not_sampled + other.not_sampled,
        )


Steps = Mapping[str, Counts]
"""Counts by the name of the step."""


def added(steps: Iterable[Steps]) -> dict[str, Counts]:
    """The sum of the counts of each step."""
    total: dict[str, Counts] = {}
    for some in steps:
        for name, counts in some.items():
            total[name] = total.get(name, Counts()) + counts
    return total


def tally(reasons: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """How often each reason stands there, in order of name."""
    return dict(sorted(Counter(reasons).items()))

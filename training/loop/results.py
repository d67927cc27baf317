"""Results over the seeds of a loop: mean and deviation over seeds, and the error over scenes."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from vila2data.files import write_text

from .rows import RESULTS_FILE, Row

_AFTER_ROUNDS = ("VILA_K-specialist", "VILA_K-specialist-asked", "VILA_K+spatial", "VILA_K+control")
_LAST_ROUND = re.compile(r"VILA_\d+(?=[-+])")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: over the seeds that have it.
        deviation: sample standard deviation over them; None where there is one.
        standard_error: how far one seed's figure would lie off, were its scenes drawn anew: the
            root mean square of theirs; None where none is known.
        seeds: how many have it.
    """

    mean: float
    deviation: float | None
    standard_error: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A round over seeds.

    Attributes:
        round: its name; K stands for a last round that differs from seed to seed.
        words: mean words of the captions that are new in the training; None where there are none.
        words_deviation: of a caption's words, a mean over seeds.
        seconds: of its stages.
        figures: of its evaluations.
    """

    round: str
    words: Spread | None
    words_deviation: float | None
    seconds: Spread
    figures: Mapping[str, Spread]


def spread(values: Sequence[float], errors: Iterable[float | None] = ()) -> Spread:
    """The spread of one value a seed.

    Args:
        values: at least one.
        errors: their standard errors over scenes.
    """
    known = [error for error in errors if error is not None]
    return Spread(
        mean=fmean(values),
        deviation=stdev(values) if len(values) > 1 else None,
        standard_error=sqrt(fmean(error**2 for error in known)) if known else None,
        seeds=len(values),
    )


def summaries(by_seed: Mapping[int, Sequence[Row]]) -> list[Summary]:
    """Every round that a seed has come to: the base, the rounds, and what follows the last."""
    groups: dict[str, list[Row]] = {}
    for rows in by_seed.values():
        for row in rows:
            groups.setdefault(_LAST_ROUND.sub("VILA_K", row.round), []).append(row)
    return [_summary(groups[role]) for role in sorted(groups, key=_place)]


def write_results(out: Path, by_seed: Mapping[int, Sequence[Row]]) -> list[Summary]:
    """Writes ``results.json`` over seeds."""
    found = summaries(by_seed)
    rounds = {seed: [row.round for row in rows] for seed, rows in by_seed.items()}
    content = {"seeds": rounds, "rounds": [asdict(summary) for summary in found]}
    write_text(out / RESULTS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return found


def _place(role: str) -> tuple[int, int]:
    """The base, then the rounds by number, then the specialist, its model and the control."""
    if role in _AFTER_ROUNDS:
        return 2, _AFTER_ROUNDS.index(role)
    return (1, int(role.removeprefix("VILA_"))) if role.startswith("VILA_") else (0, 0)


def _summary(rows: Sequence[Row]) -> Summary:
    names = {row.round for row in rows}
    words = [row.words for row in rows if row.words is not None]
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    told = {}
    for name in figures:
        found = [row.figures[name] for row in rows if name in row.figures]
        # Without an error, one scene alone was counted: that tells nothing of a model.
        sound = [f for f in found if f.value is not None and f.standard_error is not None]
        if sound:
            values = [figure.value for figure in sound if figure.value is not None]
            told[name] = spread(values, [figure.standard_error for figure in sound])
    return Summary(
        round=names.pop() if len(names) == 1 else _LAST_ROUND.sub("VILA_K", rows[0].round),
        words=spread([found.mean for found in words]) if words else None,
        words_deviation=fmean(found.deviation for found in words) if words else None,
        seconds=spread([row.seconds for row in rows]),
        figures=told,
    )

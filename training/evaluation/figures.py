"""Figures with their standard errors over scenes.

A share such as precision pools what is counted over all scenes, and so is a ratio of two sums. What
one scene contributes is correlated, so its error is that of scenes drawn anew, not of single
mentions: the linearised error of a ratio (that of a mean where every scene counts once).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        value: None where nothing was counted.
        standard_error: over scenes; None where fewer than two scenes count.
        count: of what the value is a share or mean: mentions, questions, captions.
    """

    value: float | None
    standard_error: float | None
    count: int

    def __post_init__(self) -> None:
        for number in (self.value, self.standard_error):
            if number is not None and not isfinite(number):
                raise ValueError(f"a figure must be finite, not {number}")


NOTHING = Figure(None, None, 0)


def ratio(pairs: Iterable[tuple[float, float]]) -> Figure:
    """The sum of the first over the sum of the second, which must not be negative.

    Args:
        pairs: of each scene, how much of what was counted holds, and how much was counted.
    """
    return _of_parts([np.array(list(pairs), np.float64).reshape(-1, 2)])


def mean_of_ratios(groups: Sequence[Iterable[tuple[float, float]]]) -> Figure:
    """The unweighted mean of several ratios over the same scenes; those that count nothing are left
    out.
    """
    return _of_parts([np.array(list(pairs), np.float64).reshape(-1, 2) for pairs in groups])


def spread(values: Sequence[float]) -> Figure:
    """The standard deviation of one value a scene, with its linearised error."""
    if len(values) < 2:
        return NOTHING
    squares = (np.asarray(values, np.float64) - np.mean(values)) ** 2
    deviation = sqrt(squares.sum() / (len(values) - 1))
    if deviation == 0:
        return Figure(0.0, 0.0, len(values))
    return Figure(
        deviation, _error((squares - squares.mean()) / len(values)) / (2 * deviation), len(values)
    )


def _of_parts(groups: Sequence[Floats]) -> Figure:
    counted = [group for group in groups if group[:, 1].sum() > 0]
    if not counted:
        return NOTHING
    values = [group[:, 0].sum() / group[:, 1].sum() for group in counted]
    influence = sum(
        (group[:, 0] - value * group[:, 1]) / group[:, 1].sum()
        for group, value in zip(counted, values, strict=True)
    )  # (scenes,)
    several = len(influence) > 1 and all((group[:, 1] > 0).sum() > 1 for group in counted)
    error = _error(influence / len(counted)) if several else None
    count = sum(int(group[:, 1].sum()) for group in counted)
    return Figure(float(np.mean(values)), error, count)


def _error(influence: Floats) -> float:
    scenes = len(influence)
    return sqrt(scenes / (scenes - 1) * float((influence**2).sum()))

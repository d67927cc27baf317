"""What written numbers of boxes mean, and which of them are boxes."""

from collections.abc import Mapping
from functools import lru_cache
from math import log
from types import MappingProxyType
from typing import Literal, NamedTuple

from vila2data.boxes import CONVENTIONS, Box, Size
from vila2data.errors import BadInput

from .box_text import BoxText

Fault = Literal["malformed", "out_of_range", "degenerate"]

AUTO = "auto"
PATCHES = "patches"
PIXELS = "pixels"
# One box in 20 is wrong, and has any numbers up to 10,000; of the others any up to the far side.
_MISFIT_NATS = 4 * log(10_000) + log(20)
_PATCH_GRID = 32


class Scale(NamedTuple):
    """The range of the numbers.

    Attributes:
        name: for tables.
        span: the number at the image's far side; None for its width or height in pixels, 0 where no
            number is expected.
    """

    name: str
    span: float | None

    def sides(self, size: Size | None) -> tuple[float, float] | None:
        """The numbers at the right and the lower side of an image; None where they are unknown."""
        if self.span is None:
            return size if size is not None and min(size) > 0 else None
        return (self.span, self.span) if self.span else None


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        scale.name: scale
        for scale in (
            Scale("0-1", 1),
            Scale("0-999", 999),
            Scale("0-1000", 1000),
            Scale(PIXELS, None),
            Scale(PATCHES, 0),
        )
    }
)
"""Every scale by its name."""

_NUMERIC = ("0-1", "0-999", "0-1000", PIXELS)


def scale_of(convention: str) -> Scale:
    """The scale of a convention of ``vila2data.boxes``.

    Raises:
        BadInput: there is no such convention.
    """
    if convention not in CONVENTIONS:
        raise BadInput(f"boxes: '{convention}' is unknown; known: {AUTO}, {', '.join(CONVENTIONS)}")
    known = CONVENTIONS[convention]
    if known.steps == _PATCH_GRID:
        return SCALES[PATCHES]
    if known.decimals is not None:
        return SCALES["0-1"]
    return SCALES[PIXELS if known.steps is None else f"0-{known.steps}"]


def placed(box: BoxText, scale: Scale, size: Size | None) -> Box | Fault:
    """The box, 0-1, or why it is none.

    Args:
        box: as written; patches are read whatever the scale is.
        scale: of its numbers.
        size: width and height of the image; a pixel box without them is out of range.
    """
    if box.numbers is None:
        return "malformed"
    if box.form == PATCHES:
        return _patches(*map(int, box.numbers))
    if scale.span == 0:
        return "malformed"
    sides = scale.sides(size)
    x1, y1, x2, y2 = box.numbers
    if sides is None or min(box.numbers) < 0 or max(x1, x2) > sides[0] or max(y1, y2) > sides[1]:
        return "out_of_range"
    if x1 >= x2 or y1 >= y2:
        return "degenerate"
    across, down = sides
    return x1 / across, y1 / down, x2 / across, y2 / down


@lru_cache(100_000)
def _patches(first: int, last: int) -> Box | Fault:
    if max(first, last) >= _PATCH_GRID**2:
        return "out_of_range"
    text = f"<object><patch_index_{first:04d}><patch_index_{last:04d}></object>"
    return CONVENTIONS["kosmos2"].read(text) or "degenerate"


class Evidence:
    """Collects the numbers of a config, and tells the scale under which they are likeliest.

    Under each scale a number is taken to be anywhere between 0 and the far side with the same
    likelihood: the smallest range that nearly all boxes fit wins.
    """

    def __init__(self) -> None:
        self._misfits = dict.fromkeys(_NUMERIC, 0)
        self._pixel_nats = 0.0  # of the boxes that fit
        self._pairs = 0
        self._numbers = 0
        self._patches = 0

    def add(self, box: BoxText, size: Size | None) -> None:
        """Takes one box of an image of ``size`` into account."""
        if box.numbers is None:
            return
        if box.form == PATCHES:
            self._patches += 1
            return
        self._numbers += 1
        self._pairs += box.form == "pairs"
        width, height = SCALES[PIXELS].sides(size) or (0, 0)
        x1, y1, x2, y2 = box.numbers
        is_low, right, lower = min(box.numbers) < 0, max(x1, x2), max(y1, y2)
        highest = max(right, lower)
        self._misfits["0-1"] += is_low or highest > 1
        self._misfits["0-999"] += is_low or highest > 999
        self._misfits["0-1000"] += is_low or highest > 1000
        if is_low or right > width or lower > height or not width:
            self._misfits[PIXELS] += 1
        else:
            self._pixel_nats += 2 * log(width * height)

    def scale(self) -> Scale | None:
        """The scale; None where there was no box whose numbers can be read."""
        if self._numbers < max(self._patches, 1):
            return SCALES[PATCHES] if self._patches else None
        # Numbers cannot tell 999 from 1000; pairs are Qwen's form, which ends at 999.
        is_pairs = 2 * self._pairs > self._numbers
        names = ("0-1", "0-999") if is_pairs else ("0-1", "0-1000", PIXELS)
        return SCALES[min(names, key=self._nats)]

    def _nats(self, name: str) -> float:
        """Minus the logarithm of the likelihood."""
        span, misfits = SCALES[name].span, self._misfits[name]
        fits = self._pixel_nats if span is None else 4 * log(span) * (self._numbers - misfits)
        return fits + _MISFIT_NATS * misfits

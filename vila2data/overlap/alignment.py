"""Whether two pictures show the same pixels: one is laid over the other, then compared in squares.

A perceptual hash sees 32 x 32 pixels, on which one page of text is like another. Here a cropped
copy is brought into place by Gauss-Newton steps from coarse to fine, and every square that shows
something must agree, so that a page with one other line is another page.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]
Size = tuple[int, int]

FULL_PX = 512
"""Neither side is compared at more pixels than this."""

_CROPPED = 0.05
_FARTHEST = 0.12  # of the width or height, that an edge may lie from the other picture's
_COARSE_PX = 32
_SMALL_PX = 128  # coarse levels read a picture of about this size
_SQUARE_PX = 16
_SMALL_SQUARE_PX = 8
_TEXTURE = 36.0  # variance of grey values in a square that shows something
_QUANTILE = 0.01  # of the squares: single ones suffer from JPEG
_PERHAPS_ALIKE = 0.5  # correlation below which a guess is not refined
_ALIKE = 0.8  # correlation below which finer levels are not tried
_STEPS = 4
_SETTLED_PX = 0.1
_SURE = 0.9  # likeness of pictures that need not be brought into line
_GUESSES_TRIED = 4
_AROUND = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
_TRIED = {32: 3, 64: 2}
"""How many placements go on from a level; one from there on."""


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where the second picture's edges lie in the first, 0-1 of the first."""

    left: float
    upper: float
    right: float
    lower: float

    @property
    def plausible(self) -> bool:
        """Whether so little was cut off that the pictures are one."""
        away = (self.left, self.upper, self.right - 1, self.lower - 1)
        return max(map(abs, away)) < _FARTHEST

    def shared(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The box that both show, in the first picture and in the second: left, upper, right,
        lower, each 0-1.
        """
        first, second = np.empty(4), np.empty(4)
        for axis, (start, end) in enumerate(((self.left, self.right), (self.upper, self.lower))):
            span = np.array([max(start, 0.0), min(end, 1.0)])
            first[axis::2] = span
            second[axis::2] = np.clip((span - start) / (end - start), 0, 1)
        return first, second

    def moved(self, edges: NDArray[np.float64]) -> "_Placement":
        """Moved such that the box that both show has its edges displaced in the first picture, by
        ``edges``: left, right, upper, lower, of the box.
        """
        first, second = self.shared()
        found = []
        for axis in (0, 1):
            start, end = first[axis::2]
            shifted = first[axis::2] + edges[2 * axis : 2 * axis + 2] * (end - start)
            scale = (shifted[1] - shifted[0]) / (second[axis + 2] - second[axis])
            begin = shifted[0] - scale * second[axis]
            found.append((float(begin), float(begin + scale)))
        (left, right), (upper, lower) = found
        return _Placement(left, upper, right, lower)


def _first_guesses() -> Iterator[_Placement]:
    """The second picture is the first after a crop, or the first is the second after one."""
    for left, upper, right, lower in product((0.0, _CROPPED), repeat=4):
        yield _Placement(left, upper, 1 - right, 1 - lower)
        width, height = 1 - left - right, 1 - upper - lower
        yield _Placement(-left / width, -upper / height, 1 + right / width, 1 + lower / height)


_GUESSES = tuple(dict.fromkeys(_first_guesses()))


def similarity(first: Image.Image, second: Image.Image) -> float:
    """How far two grey pictures show the same, 0 to 1, in the worst of their squares but for 1 %.

    Either may be smaller, compressed harder, or cropped by up to about 6 % at each side. Copies
    have 0.75 and more; others are told apart where the picture is large enough to show the
    difference. Pictures that cannot be brought into line have 0.
    """
    size = _common_size(first, second)
    as_given = _agreement(first, second, _GUESSES[0], size, offsets=[(0, 0)])
    if as_given >= _SURE:
        return as_given
    coarse = _smaller(first), _smaller(second)
    kept = _rated(*coarse, _GUESSES, (_COARSE_PX, _COARSE_PX), at_least=_PERHAPS_ALIKE)
    kept = kept[:_GUESSES_TRIED]
    for level in _levels(size):
        pair = coarse if max(level) < _SMALL_PX else (first, second)
        found = [p for guess in kept for p in (guess, _refined(*pair, guess, level))]
        kept = _rated(*pair, found, level, at_least=_ALIKE)[: _TRIED.get(max(level), 1)]
    if not kept:
        return 0.0
    return max(_agreement(first, second, kept[0], size, offsets=_AROUND), 0.0)


def _rated(
    first: Image.Image,
    second: Image.Image,
    placements: Iterable[_Placement],
    size: Size,
    *,
    at_least: float,
) -> list[_Placement]:
    """The placements with that correlation, the best first."""
    rated = [(_correlation(first, second, placement, size), placement) for placement in placements]
    likely = [(rating, placement) for rating, placement in rated if rating >= at_least]
    return [placement for _, placement in sorted(likely, key=lambda found: -found[0])]


def _common_size(first: Image.Image, second: Image.Image) -> Size:
    width, height = (
        max(min(FULL_PX, *sides) // _SQUARE_PX * _SQUARE_PX, _COARSE_PX)
        for sides in zip(first.size, second.size, strict=True)
    )
    return width, height


def _levels(size: Size) -> list[Size]:
    sides = (_COARSE_PX << place for place in range(5))
    levels = [(min(side, size[0]), min(side, size[1])) for side in sides]
    return list(dict.fromkeys([*levels, size]))


def _smaller(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.reduce((max(width // _SMALL_PX, 1), max(height // _SMALL_PX, 1)))


def _cut(picture: Image.Image, box: NDArray[np.float64], size: Size) -> Grey:
    """A part of a picture at another size, (height, width)."""
    edges = box * np.array([*picture.size, *picture.size])
    cut = picture.resize(size, Image.Resampling.BILINEAR, box=tuple(edges))
    return np.asarray(cut, np.float32)


def _normalised(grey: Grey) -> Grey:
    found: Grey = (grey - grey.mean()) / (grey.std() + np.float32(1e-3))
    return found


def _laid(
    first: Image.Image, second: Image.Image, placement: _Placement, size: Size
) -> tuple[Grey, Grey]:
    mine, other = placement.shared()
    return _cut(first, mine, size), _cut(second, other, size)


def _correlation(
    first: Image.Image, second: Image.Image, placement: _Placement, size: Size
) -> float:
    one, other = _laid(first, second, placement, size)
    return float(np.mean(_normalised(one) * _normalised(other)))


def _refined(
    first: Image.Image, second: Image.Image, placement: _Placement, size: Size
) -> _Placement:
    """Moved by a few steps to where the pictures differ least."""
    width, height = size
    for _ in range(_STEPS):
        edges = _step(*_laid(first, second, placement, size))
        moved = placement.moved(edges)
        if not moved.plausible:
            break
        placement = moved
        if np.abs(edges * (width, width, height, height)).max() < _SETTLED_PX:
            break
    return placement


def _step(first: Grey, second: Grey) -> NDArray[np.float64]:
    """How to move the edges of ``first``, left, right, upper, lower, of its size, such that it
    comes nearer to ``second`` (Gauss-Newton, stretched along both axes).
    """
    height, width = first.shape
    one, other = _normalised(first), _normalised(second)
    down, across = np.gradient((one + other) / 2)
    x = ((np.arange(width) + 0.5) / width).astype(np.float32)[None, :]
    y = ((np.arange(height) + 0.5) / height).astype(np.float32)[:, None]
    slopes = np.stack([across * (1 - x), across * x, down * (1 - y), down * y])  # (4, h, w)
    slopes = slopes.reshape(4, -1)  # (4, h w)
    normal = (slopes @ slopes.T).astype(np.float64) + 1e-5 * slopes.shape[1] * np.eye(4)
    apart = slopes @ (other - one).reshape(-1)  # (4,)
    edges_px: NDArray[np.float64] = np.linalg.solve(normal, apart.astype(np.float64))
    edges: NDArray[np.float64] = edges_px / np.array([width, width, height, height])
    return edges


def _agreement(
    first: Image.Image,
    second: Image.Image,
    placement: _Placement,
    size: Size,
    *,
    offsets: Sequence[tuple[int, int]],
) -> float:
    """A low quantile of the likeness of the squares that show something.

    Args:
        first: grey.
        second: grey.
        placement: of the second on the first.
        size: at which they are compared.
        offsets: down and across, in pixels, that a square may lie aside; the best one counts.
    """
    one, other = _laid(first, second, placement, size)
    side = _SQUARE_PX if min(size) > _SMALL_PX else _SMALL_SQUARE_PX
    mine, theirs = _squares(one, side), _squares(other, side)
    shows = np.maximum(mine.var(axis=1), theirs.var(axis=1)) > _TEXTURE
    if not shows.any():
        return 0.0
    likeness = [
        _likeness(_squares(np.roll(one, offset, (0, 1)), side)[shows], theirs[shows])
        for offset in offsets
    ]
    return float(np.quantile(np.max(likeness, axis=0), _QUANTILE))


def _squares(grey: Grey, side: int) -> Grey:
    """The squares of a picture, (n, pixels)."""
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    cut = grey.reshape(rows, side, columns, side).swapaxes(1, 2)  # (rows, columns, side, side)
    return cut.reshape(rows * columns, side * side)


def _likeness(mine: Grey, theirs: Grey) -> NDArray[np.float64]:
    """Of each pair of squares, -1 to 1: the structure term of SSIM, noise forgiven."""
    mine = mine - mine.mean(axis=1, keepdims=True)
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    shared = (mine * theirs).mean(axis=1)
    apart = (mine**2).mean(axis=1) + (theirs**2).mean(axis=1)
    likeness: NDArray[np.float64] = (2 * shared + _TEXTURE) / (apart + _TEXTURE)
    return likeness

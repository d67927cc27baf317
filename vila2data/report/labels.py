"""Where the texts of a drawing stand, so that they do not lie upon each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import east_asian_width

_CHAR_PX = 6.6
_LINE_PX = 12.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text of one line, centred at ``x_px``, ``y_px``; a minor one is written smaller."""

    text: str
    x_px: float
    y_px: float
    minor: bool


class Labels:
    """Texts that were placed in a drawing; no two overlap, but for those that must stand."""

    def __init__(self, width_px: float, height_px: float, *, font: float = 1.0) -> None:
        """``font`` enlarges the texts; 1 is one of 11 px."""
        self._size = (width_px, height_px)
        self._font = font
        self._placed: list[Label] = []
        self._taken: list[tuple[float, float, float, float]] = []  # left, top, right, bottom

    def place(
        self,
        text: str,
        spots: Iterable[tuple[float, float]],
        *,
        must: bool = False,
        minor: bool = False,
    ) -> bool:
        """Puts the text at the first spot that is free; at the first of all where it must stand.

        Args:
            text: one line.
            spots: centres, best first; a text that would cross the border is moved inside.
            must: whether it may lie upon others where no spot is free.
            minor: whether it is written smaller; it takes the same room.

        Returns:
            Whether it stands.
        """
        inside = [self._inside(spot, self.width_px(text)) for spot in spots]
        chosen = next((spot for spot in inside if self._is_free(self._area(text, spot))), None)
        if chosen is None and must and inside:
            chosen = inside[0]
        if chosen is None:
            return False
        self._taken.append(self._area(text, chosen))
        self._placed.append(Label(text, *chosen, minor))
        return True

    def take(self) -> list[Label]:
        """The texts that were placed since this was last asked; their places stay taken."""
        taken, self._placed = self._placed, []
        return taken

    def width_px(self, text: str) -> float:
        """About how wide a text is."""
        wide = sum(east_asian_width(char) in "WF" for char in text)
        return (len(text) + wide) * _CHAR_PX * self._font + 2

    def _inside(self, spot: tuple[float, float], width: float) -> tuple[float, float]:
        sizes = (width, _LINE_PX * self._font)
        x, y = (
            min(max(at, size / 2), max(end - size / 2, size / 2))
            for at, size, end in zip(spot, sizes, self._size, strict=True)
        )
        return x, y

    def _area(self, text: str, spot: tuple[float, float]) -> tuple[float, float, float, float]:
        half_x, half_y = self.width_px(text) / 2, _LINE_PX * self._font / 2
        return spot[0] - half_x, spot[1] - half_y, spot[0] + half_x, spot[1] + half_y

    def _is_free(self, area: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = area
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self._taken
        )

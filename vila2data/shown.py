"""How values are written for people, in tables, pages and messages."""

import difflib
from collections.abc import Iterable


def shown(value: object) -> str:
    """A value as people read it.

    Example:
        >>> shown(1234567), shown(0.03125), shown(None), shown(12.5)
        ('1,234,567', '0.03125', '–', '12.5')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}".rstrip("0").rstrip(".")
    return str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """What a message says after a name that is unknown.

    Example:
        >>> nearest("recapton", ["recaption", "build"])
        "; did you mean 'recaption'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""

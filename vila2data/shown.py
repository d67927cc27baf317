"""How values are written for people, in tables and pages."""


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

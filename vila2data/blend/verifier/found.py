"""Broken rules and who breaks them."""

from collections.abc import Iterable

_SHOWN = 3


class Found:
    """Broken rules of one config, each with the number of rows and the first of their ids."""

    def __init__(self, config: str) -> None:
        self._config = config
        self._rows: dict[str, tuple[int, list[str]]] = {}

    def add(self, rule: str, ids: Iterable[object], count: int | None = None) -> None:
        """Notes rows that break a rule; ``count`` where ``ids`` are only some of them."""
        told = [str(each) for each in ids]
        many, first = self._rows.get(rule, (0, []))
        if told:
            shown = sorted({*first, *told})[:_SHOWN]
            self._rows[rule] = many + (len(told) if count is None else count), shown

    def lines(self) -> list[str]:
        """A line for each rule."""
        return [
            f"{self._config}: {rule}: {count} rows, such as {', '.join(ids)}"
            for rule, (count, ids) in sorted(self._rows.items())
        ]

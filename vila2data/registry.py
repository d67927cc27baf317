"""Builders, commands and engines, found through entry points so that any package can add one."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from .errors import BadInput

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["builders", "commands", "engines"]


@cache
def _points(kind: Kind) -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # slow; most commands need no registry

    return {point.name: point for point in entry_points(group=f"vila2data.{kind}")}


def names(kind: Kind) -> list[str]:
    """The registered names of ``kind``, sorted."""
    return sorted(_points(kind))


def load(kind: Kind, name: str) -> Any:
    """The object registered as ``name``.

    Raises:
        BadInput: nothing is registered under that name.
    """
    point = _points(kind).get(name)
    if point is None:
        known = ", ".join(names(kind)) or "none installed"
        raise BadInput(f"there is no {kind[:-1]} '{name}'; known: {known}")
    return point.load()

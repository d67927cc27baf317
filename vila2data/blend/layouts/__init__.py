"""How a record of a source becomes annotations; one function a layout."""

from types import MappingProxyType

from . import (
    answers,
    captions,
    cauldron,
    choices,
    dialogs,
    documents,
    frames,
    regions,
    texts,
    turns,
)
from .layout import Layout, Read, Record

__all__ = ["LAYOUTS", "Layout", "Read", "Record"]

_MODULES = (answers, captions, cauldron, choices, dialogs, documents, frames, regions, texts, turns)

LAYOUTS: MappingProxyType[str, Layout] = MappingProxyType(
    {name: layout for module in _MODULES for name, layout in module.LAYOUTS.items()}
)
"""By name, as the catalogue has it."""

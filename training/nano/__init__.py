"""The nano setting: a vision tower and a language model small enough for a CPU."""

from pathlib import Path


def foundation_folder() -> Path:
    """The foundation that is shipped: ``vision/``, ``language/`` and ``foundation.json``."""
    return Path(__file__).parent / "foundation"

"""Values of records, whatever their publisher made of them."""

from collections.abc import Mapping
from math import isfinite
from typing import Any


def text_of(value: object) -> str | None:
    """The text of a value; None where it is none.

    Numbers are texts too: answers such as 2016 come as either.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not isfinite(value):
        return None
    try:
        return str(value)
    except ValueError:  # a number of thousands of digits, which Python does not print
        return None


def texts_of(value: object) -> list[str]:
    """The texts of a list, or of one value as a list of one; what is none is left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return [text for text in map(text_of, values) if text is not None]


def image_of(value: object) -> str | bytes | None:
    """An image as its bytes or its name: of `datasets`' {bytes, path}, or as it is."""
    if isinstance(value, Mapping):
        held: Any = value.get("bytes")
        return held if isinstance(held, bytes) and held else text_of(value.get("path"))
    if isinstance(value, bytes):
        return value or None
    return text_of(value)


def images_of(value: object) -> list[str | bytes]:
    """The images of a list, or of one value as a list of one; what is none is left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return [image for image in map(image_of, values) if image is not None]

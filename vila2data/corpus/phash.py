"""Perceptual hash of a picture, in the layout of COYO's ``image_phash``."""

from typing import Any

from PIL import Image

from vila2data.optional import require

PHASH_EXTRA = "phash"
"""The extra that installs what ``phash`` needs."""


def phash(picture: Image.Image) -> int:
    """The hash as an unsigned number of 64 bits; COYO spells it with 16 hexadecimal digits.

    A bit for each of the 8 x 8 lowest frequencies of the picture's 32 x 32 grey values, the mean
    first: whether it is above their median. Copies in another size or quality differ in a few bits,
    other pictures in about half of the 64.

    Raises:
        MissingExtra: ImageHash is not installed.
    """
    imagehash: Any = require("imagehash", extra=PHASH_EXTRA)
    return int(str(imagehash.phash(picture)), 16)

"""Which picture a sample has, and what stands in for one that is not at hand."""

from collections.abc import Mapping
from typing import Any

from .pictures import Canvas, NoPicture, Picture, PictureFinder
from .rows import Row

Shown = Picture | Canvas | NoPicture

_NO_IMAGE = {
    None: "No image: the build was made without a corpus.",
    "missing": "No image: the build's corpus did not hold it, or it was not usable.",
}
_OTHER_IMAGE = {
    "size_differs": "The image's sides are in another ratio than the row's: boxes may lie wrong.",
    "phash_differs": "The image does not look like the row's: boxes may lie wrong.",
}


def pictures_of(key: str, rows: list[Row], finder: PictureFinder) -> list[Picture | NoPicture]:
    """The pictures of a sample, or why there is none; none at all where it is text alone."""
    own = [row.pictures for row in rows if row.pictures is not None]
    if any(own):
        return max(own, key=len)  # a row may be text alone
    if own and all(row.values.get("reject_reason") is not None for row in rows):
        return [NoPicture("It was refused: the build names its image and does not hold it.")]
    if own:
        return []
    hashes = (row.values.get("image_sha256") for row in rows)
    known = next((value for value in hashes if value is not None), None)
    reasons = (_unnamed(row.values) for row in rows)
    reason = next((reason for reason in reasons if reason is not None), None)
    if known is None and reason is not None:
        return [NoPicture(reason)]
    return [finder.in_corpus(key, known)]


def _unnamed(values: Mapping[str, Any]) -> str | None:
    """Why a row without a hash has no picture; None where its key says which.

    A key alone does not, where the build was made without the corpus: another image may have it.
    """
    if "image_status" in values:
        status = values["image_status"]
        return None if status == "ok" else _NO_IMAGE.get(status, "No image: the row names none.")
    if "image_sha256" in values:
        return "No image: the sample has none that can be used."
    names_none = "phrases" in values or "image_path" not in values
    if values.get("reject_reason") is not None and names_none:
        return "No image: the row was rejected, and names none."
    return None


def with_canvas(pictures: list[Picture | NoPicture], rows: list[Row]) -> list[Shown]:
    """The pictures, with a canvas where there is none to draw the boxes of phrases on."""
    values = next((row.values for row in rows if row.values.get("phrases")), {})
    return [
        Canvas.of(each, values.get("width"), values.get("height"))
        if isinstance(each, NoPicture)
        else each
        for each in pictures
    ]


def note_of(pictures: list[Picture | NoPicture], rows: list[Row]) -> str | None:
    """What the rows say against the picture that is shown; None where nothing."""
    statuses = (row.values.get("image_status") for row in rows)
    notes = [_OTHER_IMAGE[status] for status in statuses if status in _OTHER_IMAGE]
    shown = any(isinstance(picture, Picture) for picture in pictures)
    return notes[0] if notes and shown else None

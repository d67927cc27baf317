"""What an export is made of: a conversation with its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.corpus.images import Problem

ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a row.

    Attributes:
        content: its bytes; None where the build names it and nobody said where it lies.
        suffix: by what the bytes are, not by what a name says.
        name: below a folder of images, as the source has it; None where it has none.
        file: holds exactly ``content``, and so can be linked in the place of written.
        upright: False where the pixels as stored need a turn, which many trainers do not do.
    """

    content: bytes | None
    suffix: str = ""
    name: str | None = None
    file: Path | None = None
    upright: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation.

    Attributes:
        id: as the build has it; may hold anything.
        messages: role and content, alternating; as many markers as there are pictures.
        pictures: in the order of the markers.
        origin: what gives the source's record back.
        about: what else the build says of the row: source, task, license.
    """

    id: str
    messages: Sequence[Mapping[str, str]]
    pictures: Sequence[Picture] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def fault_of(messages: Sequence[Mapping[str, str | None]], images: int) -> Problem | None:
    """Why no trainer could use a conversation of that many images; None where it can be used."""
    roles = [message["role"] for message in messages]
    if not roles or roles != list(ROLES) * (len(roles) // 2):
        return Problem(
            "turns_out_of_order", f"the roles are {', '.join(map(str, roles)) or 'none'}"
        )
    texts = [message["content"] for message in messages]
    if None in texts:
        return Problem("turn_missing", f"turn {texts.index(None)} has no text")
    asked = sum(text.count(IMAGE_MARKER) for text in texts[::2] if text)
    answered = sum(text.count(IMAGE_MARKER) for text in texts[1::2] if text)
    if answered or asked != images:
        told = f"{asked} in questions and {answered} in answers, of {images} images"
        return Problem("markers_differ", f"{IMAGE_MARKER} stands {told}")
    return None

"""What a source says of its images, before it is worded as a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer.

    Attributes:
        question: without choices and without the sentence that asks for a form of answer; empty
            where the question is drawn (regions), or is that sentence alone (captions).
        answer: the text of the answer; with ``choices`` one of them.
        choices: in the source's order; worded as "A. ..." lines, and the answer as its letter.
        box: xyxy, 0-1 of the image, of the region that ``answer`` describes.
        cleaned: the rule that changed the source's label, None where it stands as it was.
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    box: Box | None = None
    cleaned: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """Exchanges about one image, about several, or about none.

    Attributes:
        id: the source's name of the row, as text.
        group: of the image or images: rows of a source with the same group are merged where a
            recipe says so. Empty where the images' own bytes shall tell.
        images: each as its bytes, or as its name below the source's folder of images.
        exchanges: in order, at least one.
        origin: what else gives the source's row back, as JSON takes it.
    """

    id: str
    group: str
    images: tuple[str | bytes, ...]
    exchanges: tuple[Exchange, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)

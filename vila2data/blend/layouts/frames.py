"""Several images in a row: frames of a video, pairs, choices that are pictures."""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.corpus.images import Problem
from vila2data.corpus.names import IMAGE_SUFFIXES, leaves_folder

from .fields import images_of, text_of, texts_of
from .layout import Layout, Record
from .texts import name_of

Item = TypeVar("Item")

FRAMES = 8
"""Of a video, as VILA takes them."""

_TRUTH = {"true": "True", "false": "False"}
_ENCODED_IN = ("image", "image_base64_str", "image_str", "img_str")


def evenly_spaced(items: Sequence[Item], count: int = FRAMES) -> list[Item]:
    """``count`` of ``items``, the first and the last among them; all where there are no more.

    Example:
        >>> evenly_spaced(range(15))
        [0, 2, 4, 6, 8, 10, 12, 14]
    """
    if len(items) <= count:
        return list(items)
    return [items[place * (len(items) - 1) // (count - 1)] for place in range(count)]


def frames_in(folder: Path, name: str, count: int = FRAMES) -> list[str]:
    """Names of evenly spaced frames of a video.

    Args:
        folder: of the source's images.
        name: ``VIDEO/``, of the folder below it that has the video's frames.
        count: how many are wanted.

    Returns:
        Names below ``folder``, in the frames' order: numbers in them count by value. None where
        there is no such folder.
    """
    if leaves_folder(name) or not (folder / name).is_dir():
        return []
    found = [f.name for f in (folder / name).iterdir() if f.suffix[1:].lower() in IMAGE_SUFFIXES]
    chosen = evenly_spaced(sorted(found, key=_by_number), count)
    return [f"{name.rstrip('/')}/{frame}" for frame in chosen]


def _by_number(name: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(0, int(n), "") if n and len(n) < 20 else (1, 0, n or text) for n, text in parts]


def read_frames(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a video, or what it shows.

    Its frames are a list of the record, or a folder below the source's images: ``VIDEO/``.
    """
    video, answers = text_of(record.get("video")), texts_of(record.get("answer"))
    split = text_of(record.get("split"))
    if split is not None and not split.lower().startswith("train"):
        yield Problem("other_split", split)
    elif video is None:
        yield Problem("image_missing", "the video has no name")
    elif not answers:
        yield Problem("answer_missing", video)
    else:
        question = text_of(record.get("question")) or ""
        frames = evenly_spaced(images_of(record.get("frames")))
        yield Annotation(
            id=text_of(record.get("id")) or f"{video}-{name_of(question, answers[0])}",
            group=video,
            images=tuple(frames) or (f"{video}/",),
            exchanges=(Exchange(question, answers[0]),),
            origin={"video": video},
        )


def read_m3it(record: Record) -> Iterator[Annotation | Problem]:
    """A question whose image, or frames, are base64 text of the record."""
    held = next((record[name] for name in _ENCODED_IN if record.get(name)), None)
    images = [_decoded(text) for text in evenly_spaced(texts_of(held))]
    asked = [text_of(record.get("instruction")), text_of(record.get("input"))]
    question, answer = "\n".join(filter(None, asked)), text_of(record.get("output"))
    if not images:
        yield Problem("image_missing", question)
    elif None in images:
        yield Problem("image_undecodable", "is no base64")
    elif answer is None:
        yield Problem("answer_missing", question)
    else:
        yield Annotation(
            id=text_of(record.get("id")) or name_of(texts_of(held)[0], question, answer),
            group="",
            images=tuple(image for image in images if image is not None),
            exchanges=(Exchange(question, answer),),
        )


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def read_pair(record: Record) -> Iterator[Annotation | Problem]:
    """A sentence that is true or false of two images.

    Without columns for the images they are named as NLVR2's files are.
    """
    name = text_of(record.get("id")) or ""
    pair = images_of([record.get("left"), record.get("right")])
    if not pair and name:
        stem = f"{text_of(record.get('directory')) or '.'}/{name.rpartition('-')[0]}"
        pair = [f"{stem}-img{side}.png" for side in (0, 1)]
    yield _judged(record, name, tuple(pair), 2)


def read_nlvr(record: Record) -> Iterator[Annotation | Problem]:
    """A sentence that is true or false of an image; of the image's six permutations the first."""
    name, folder = text_of(record.get("id")), text_of(record.get("directory"))
    images = (f"{folder}/train-{name}-0.png",) if name and folder else ()
    yield _judged(record, name or "", images, 1)


def _judged(
    record: Record, name: str, images: tuple[str | bytes, ...], wanted: int
) -> Annotation | Problem:
    sentence, label = text_of(record.get("sentence")), record.get("label")
    truth = _TRUTH.get(str(label).lower()) if isinstance(label, str | bool) else None
    if len(images) != wanted:
        return Problem("image_missing", f"{len(images)} of {wanted}")
    if sentence is None:
        return Problem("question_missing", name)
    if truth is None:
        return Problem("label_unknown", f"{text_of(label)}; true or false is accepted")
    asked = Exchange(f"True or false: {sentence}", truth)
    return Annotation(name or name_of(sentence), "", images, (asked,))


def read_stem(record: Record) -> Iterator[Annotation | Problem]:
    """A question with choices, either of which may be pictures.

    Pictures come in order: that of the question, then those of the choices, which are then asked
    for by number.
    """
    question, place = text_of(record.get("problem")), record.get("answer_idx")
    shown = images_of(record.get("problem_pic"))
    choices, pictures = _choices(record, len(shown))
    if question is None:
        yield Problem("question_missing")
    elif len(set(choices)) < max(len(choices), 2):
        yield Problem("choices_unusable", question)
    elif isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        yield Problem("label_unknown", f"{text_of(place)} of {len(choices)} choices")
    else:
        yield Annotation(
            id=text_of(record.get("id")) or name_of(question, *choices, str(place)),
            group="",
            images=(*shown, *pictures),
            exchanges=(Exchange(question, choices[place], choices=choices),),
            origin=_facts(record, "subject", "grade", "skill"),
        )


def _choices(record: Record, before: int) -> tuple[tuple[str, ...], list[str | bytes]]:
    """The choices and their pictures; no choice where one is lost, since they are told by place."""
    for column in ("choices_pic", "choices"):
        held = record.get(column)
        if isinstance(held, list) and held:
            pictures = images_of(held) if column == "choices_pic" else []
            numbers = range(before + 1, before + 1 + len(pictures))
            texts = [f"picture {n}" for n in numbers] or texts_of(held)
            return (tuple(texts) if len(texts) == len(held) else (), pictures)
    return (), []


def _facts(record: Mapping[str, Any], *names: str) -> dict[str, str]:
    found = {name: text_of(record.get(name)) for name in names}
    return {name: text for name, text in found.items() if text is not None}


_JUDGED = ("sentence", "label")
_STEM = ("id", "problem_pic", "choices", "choices_pic", "subject", "grade", "skill")

LAYOUTS: dict[str, Layout] = {
    "frames": Layout(
        read_frames, needs=("video", "answer"), may_have=("question", "frames", "id", "split")
    ),
    "m3it": Layout(
        read_m3it, needs=("output",), may_have=(*_ENCODED_IN, "instruction", "input", "id")
    ),
    "pairs_of_images": Layout(
        read_pair, needs=_JUDGED, may_have=("id", "left", "right", "directory")
    ),
    "nlvr": Layout(read_nlvr, needs=(*_JUDGED, "id", "directory")),
    "stem": Layout(read_stem, needs=("problem", "answer_idx"), may_have=_STEM),
}

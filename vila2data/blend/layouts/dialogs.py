"""Questions, dialogues and descriptions whose records nest what other layouts have in columns."""

from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.boxes import CONVENTIONS
from vila2data.corpus.images import Problem

from .fields import image_of, images_of, text_of, texts_of
from .layout import Layout, Record
from .texts import name_of

_BOXES = CONVENTIONS["norm2"]
_MORE_IMAGES = tuple(f"image_{number}" for number in range(2, 8))
_LETTERED = ("A", "B", "C", "D", "E")


def read_dialog(record: Record) -> Iterator[Annotation | Problem]:
    """Rounds of questions and answers about an image, as VisDial and VisualMRC have them.

    A round is a pair, or an object with ``question`` and ``answer``. Each of the two is a text, an
    object with ``text``, or a place in the record's lists ``questions`` and ``answers``.
    """
    image = image_of(record.get("image"))
    if image is None:
        yield Problem("image_missing", text_of(record.get("id")) or "")
        return
    rounds, exchanges = _list(record.get("dialog")), []
    if not rounds:
        yield Problem("question_missing", "the dialog is no list, or empty")
    for asked in rounds:
        pair = _pair(asked)
        question = _looked_up(pair[0], record.get("questions"))
        answer = _looked_up(pair[1], record.get("answers"))
        if question is None or answer is None:
            yield Problem(
                "question_missing" if question is None else "answer_missing", _name(image)
            )
        else:
            exchanges.append(Exchange(_asked(question), answer))
    if exchanges:
        caption = text_of(record.get("caption"))
        yield Annotation(
            id=text_of(record.get("id")) or _name(image),
            group=_name(image),
            images=(image,),
            exchanges=tuple(exchanges),
            origin={} if caption is None else {"caption": caption},
        )


def _pair(asked: object) -> tuple[object, object]:
    if isinstance(asked, Mapping):
        return asked.get("question"), asked.get("answer")
    return (asked[0], asked[1]) if isinstance(asked, list) and len(asked) == 2 else (None, None)


def _looked_up(value: object, texts: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(texts, list):
        return text_of(texts[value]) if 0 <= value < len(texts) else None
    return text_of(value.get("text") if isinstance(value, Mapping) else value)


def _asked(question: str) -> str:
    """VisDial's lists leave the question mark out."""
    return question if question[-1] in "?.!" else f"{question}?"


def read_image_by_id(record: Record) -> Iterator[Annotation | Problem]:
    """An answer about an image that is known by its number, or its address.

    The image is ``NUMBER.jpg``, or the last folder and the name of its address.
    """
    number, answer = text_of(record.get("image_id")), text_of(record.get("answer"))
    question = text_of(record.get("question")) or ""
    if number is None:
        yield Problem("image_missing", question)
    elif answer is None:
        yield Problem("answer_missing", question)
    else:
        image = _end_of(record.get("url")) or f"{number}.jpg"
        name = text_of(record.get("id")) or f"{number}-{name_of(question, answer)}"
        yield Annotation(name, number, (image,), (Exchange(question, answer),))


def _end_of(url: object) -> str | None:
    """``VG_100K/2.jpg`` of an address that ends in it; None where it is no address."""
    parts = [part for part in (text_of(url) or "").split("/") if part]
    return "/".join(parts[-2:]) if len(parts) > 2 else None


def read_sherlock(record: Record) -> Iterator[Annotation | Problem]:
    """What a clue in an image suggests; the clue has one or several boxes in pixels."""
    inputs, targets = _object(record.get("inputs")), _object(record.get("targets"))
    picture = _object(inputs.get("image"))
    image, clue = _end_of(picture.get("url")), text_of(inputs.get("clue"))
    inference = text_of(targets.get("inference"))
    boxes = _boxes(inputs.get("bboxes"), picture.get("width"), picture.get("height"))
    if image is None:
        yield Problem("image_missing", clue or "")
    elif clue is None:
        yield Problem("question_missing", image)
    elif inference is None:
        yield Problem("answer_missing", clue)
    elif not boxes:
        yield Problem("box_unusable", clue)
    else:
        where = ", ".join(map(_BOXES.render, boxes))
        question = f"What does this clue suggest: {clue.rstrip('.')}, at {where}?"
        name = text_of(record.get("instance_id")) or name_of(image, clue, inference)
        yield Annotation(name, image, (image,), (Exchange(question, inference),))


def _boxes(boxes: object, width_px: object, height_px: object) -> list[tuple[float, ...]]:
    """xyxy, 0-1; none where one of them is no box."""
    size = (_length(width_px), _length(height_px))
    found = [_box(_object(box), *size) for box in _list(boxes)]
    return [box for box in found if box is not None] if None not in found else []


def _box(
    box: Mapping[str, Any], width_px: float | None, height_px: float | None
) -> tuple[float, ...] | None:
    left, top, width, height = (_length(box.get(n)) for n in ("left", "top", "width", "height"))
    if left is None or top is None or not (width and height and width_px and height_px):
        return None
    right, low = min((left + width) / width_px, 1.0), min((top + height) / height_px, 1.0)
    found = (left / width_px, top / height_px, right, low)
    return found if found[0] < right and found[1] < low else None


def _length(value: object) -> float | None:
    """A number from 0 to a million; None where it is none, or greater."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1e6 else None


def read_wit(record: Record) -> Iterator[Annotation | Problem]:
    """The English caption of an image of Wikipedia: of the page, or else the alt text."""
    image, features = image_of(record.get("image")), _object(record.get("wit_features"))
    pages = _rows(features) or _list(record.get("wit_features"))
    page = next((p for p in map(_object, pages) if p.get("language") == "en"), {})
    texts = [page.get("caption_reference_description"), page.get("caption_alt_text_description")]
    caption = next((text for text in map(text_of, texts) if text), None)
    if image is None:
        yield Problem("image_missing", text_of(record.get("image_url")) or "")
    elif caption is None:
        yield Problem("answer_missing", "no English caption")
    else:
        facts = {"image_url": record.get("image_url"), "page_title": page.get("page_title")}
        origin = {name: text for name, value in facts.items() if (text := text_of(value))}
        name = name_of(origin.get("image_url", ""), caption)
        yield Annotation(name, "", (image,), (Exchange("", caption),), origin)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of lists; `datasets` stores lists of objects so."""
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    length = max(map(len, lists.values()), default=0)
    return [{n: v[i] for n, v in lists.items() if i < len(v)} for i in range(length)]


def read_viquae(record: Record) -> Iterator[Annotation | Problem]:
    """A question about who or what is in an image; the answer as people wrote it first."""
    image, question = image_of(record.get("image")), text_of(record.get("question"))
    output = _object(record.get("output"))
    answers = [*texts_of(output.get("original_answer")), *texts_of(output.get("answer"))]
    if image is None:
        yield Problem("image_missing", question or "")
    elif question is None:
        yield Problem("question_missing")
    elif not answers:
        yield Problem("answer_missing", question)
    else:
        name = text_of(record.get("id")) or name_of(question, answers[0])
        yield Annotation(name, "", (image,), (Exchange(question, answers[0]),))


def read_benchmark(record: Record) -> Iterator[Annotation | Problem]:
    """What a benchmark shows and asks, whatever of it is public: a hidden answer is empty.

    Each of several answers is an exchange. A label that names a choice, by place or letter, is the
    choice's text.
    """
    images = images_of(record.get("image"))
    images += [i for name in _MORE_IMAGES if (i := image_of(record.get(name))) is not None]
    question = text_of(record.get("question")) or ""
    if not images:
        yield Problem("image_missing", question)
        return
    choices = texts_of(record.get("choices")) if _list(record.get("choices")) else []
    choices = choices or [t for n in _LETTERED if (t := text_of(record.get(n))) is not None]
    held = record.get("answer") if record.get("answer") is not None else record.get("answers")
    answers = dict.fromkeys(_named(value, choices) for value in (_list(held) or [held]))
    known = [text for text in answers if text] or [""]
    yield Annotation(
        id=text_of(record.get("id")) or name_of(question, *known),
        group="",
        images=tuple(images),
        exchanges=tuple(Exchange(question, text) for text in known),
    )


def _named(label: object, choices: Sequence[str]) -> str | None:
    """The text of an answer; of an object, as VQAv2 lists them, that under ``answer``."""
    told = label.get("answer") if isinstance(label, Mapping) else label
    text = text_of(told)
    if text is None or not choices or text in choices:
        return text
    place = ascii_uppercase.find(text) if len(text) == 1 else -1
    if isinstance(told, int):
        place = told
    return choices[place] if 0 <= place < len(choices) else text


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(image: str | bytes) -> str:
    return image if isinstance(image, str) else ""


_BENCHMARK = ("question", "answer", "answers", "choices", "id", *_LETTERED, *_MORE_IMAGES)

LAYOUTS: dict[str, Layout] = {
    "dialog": Layout(read_dialog, ("image", "dialog"), ("caption", "id", "questions", "answers")),
    "image_by_id": Layout(read_image_by_id, ("image_id", "answer"), ("question", "url", "id")),
    "sherlock": Layout(read_sherlock, ("inputs", "targets"), ("instance_id",)),
    "wit": Layout(read_wit, ("image", "wit_features"), ("image_url",)),
    "viquae": Layout(read_viquae, ("image", "question", "output"), ("id",)),
    "benchmark": Layout(read_benchmark, ("image",), _BENCHMARK),
}

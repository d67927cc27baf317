"""Pages, books and charts with questions about their text."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import (
    Label,
    choice_of,
    choices_of,
    first_of,
    majority,
    only,
    stated,
)
from vila2data.corpus.images import Problem
from vila2data.corpus.names import IMAGE_SUFFIXES

from .answers import annotation, asked, pictures, single, sorted_out, with_choices
from .fields import text_of
from .layout import Layout, Record

_TRAINING = frozenset({"1", "1.0"})
_MAX_SHOWN_CHARS = 60


def read_docvqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a page; of its answers, which are all right, the first."""
    if (held_out := _held_out(record.get("data_split"))) is not None:
        yield held_out
        return
    name = text_of(record.get("questionId")) or text_of(record.get("question_id"))
    answer = first_of(record.get("answers"))
    yield single(record, record.get("image"), asked(record.get("question"), answer), name)


def read_chartqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a chart: of the Hub's rows, or of the original files (``imgname``)."""
    image = record.get("imgname") if record.get("image") is None else record.get("image")
    yield single(record, image, asked(record.get("query"), only(record.get("label"))))


def read_textvqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a photo, with ten people's answers or so; versions 0.1 and 0.5."""
    image, image_id = record.get("image"), text_of(record.get("image_id"))
    if image is None and image_id is not None:
        image = f"{image_id}.jpg"
    given = record.get("answers")
    answer = majority(given if isinstance(given, list | tuple) else [given])
    name = text_of(record.get("question_id"))
    yield single(record, image, asked(record.get("question"), answer), name)


def read_arxivqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a figure with choices, and a label that means one of them."""
    choices = choices_of(record.get("options"))
    if isinstance(choices, Problem):
        yield choices
        return
    label = choice_of(record.get("label"), choices)
    exchange = with_choices(asked(record.get("question"), label), choices)
    yield single(record, record.get("image"), exchange)


def read_ocrvqa(record: Record) -> Iterator[Annotation | Problem]:
    """A book's cover with its questions: of the Hub's rows, or of the original file, by key."""
    split = record.get("set_name") if record.get("split") is None else record.get("split")
    if (held_out := _held_out(split)) is not None:
        yield held_out
        return
    name = text_of(record.get("image_id")) or text_of(record.get("_key"))
    image = _cover(record, name) if record.get("image") is None else record.get("image")
    about = pictures(image)
    if isinstance(about, Problem):
        yield about
        return
    exchanges, problems = sorted_out(_paired(record.get("questions"), record.get("answers")))
    yield from problems
    if exchanges:
        yield annotation(record, about, exchanges, name=name)


def read_synthdog(record: Record) -> Iterator[Annotation | Problem]:
    """A drawn page with the text on it; the question is the rules' `form`."""
    image = record.get("file_name") if record.get("image") is None else record.get("image")
    answer = _text_sequence(record.get("ground_truth"))
    drawn = answer if isinstance(answer, Problem) else Exchange("", answer.answer)
    yield single(record, image, drawn, text_of(record.get("file_name")))


def _held_out(split: object) -> Problem | None:
    """A problem where a record says of itself that it is of another split than training."""
    said = text_of(split) or type(split).__name__
    if split is None or said in _TRAINING or said.casefold().startswith("train"):
        return None
    return Problem("not_training", f"is of the split {said}")


def _cover(record: Record, name: str | None) -> str | None:
    """Where the publisher's script puts the image that is at a record's ``imageURL``."""
    if name is None:
        return None
    return f"images/{name}{_suffix(text_of(record.get('imageURL')) or '')}"


def _suffix(url: str) -> str:
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix
    except ValueError:  # a malformed host
        return ".jpg"
    return suffix if suffix[1:].lower() in IMAGE_SUFFIXES else ".jpg"


def _paired(questions: object, answers: object) -> Iterator[Exchange | Problem]:
    if not isinstance(questions, list) or not questions:
        yield Problem("question_missing", "there are no questions")
    elif not isinstance(answers, list) or len(answers) != len(questions):
        count = len(answers) if isinstance(answers, list) else "no"
        yield Problem("answers_mismatched", f"{len(questions)} questions, {count} answers")
    else:
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            yield asked(question, stated(answer), place=place)


def _text_sequence(ground_truth: object) -> Label | Problem:
    parsed = ground_truth
    if isinstance(ground_truth, str):
        try:
            parsed = json.loads(ground_truth)
        except (ValueError, RecursionError):
            return Problem("ground_truth_malformed", ground_truth[:_MAX_SHOWN_CHARS])
    parse = parsed.get("gt_parse") if isinstance(parsed, Mapping) else None
    if not isinstance(parse, Mapping) or "text_sequence" not in parse:
        return Problem("ground_truth_malformed", "has no gt_parse with a text_sequence")
    text = parse["text_sequence"]
    if text is None or isinstance(text, str):
        return stated(text)
    return Problem("ground_truth_malformed", f"text_sequence is a {type(text).__name__}")


_COMMON = ("id", "group", "image")

LAYOUTS: dict[str, Layout] = {
    "docvqa": Layout(
        read_docvqa,
        needs=("question", "answers"),
        may_have=(*_COMMON, "questionId", "question_id", "data_split"),
    ),
    "chartqa": Layout(read_chartqa, needs=("query", "label"), may_have=(*_COMMON, "imgname")),
    "textvqa": Layout(
        read_textvqa,
        needs=("question", "answers"),
        may_have=(*_COMMON, "image_id", "question_id"),
    ),
    "arxivqa": Layout(
        read_arxivqa, needs=("image", "question", "options", "label"), may_have=("id", "group")
    ),
    "ocrvqa": Layout(
        read_ocrvqa,
        needs=("questions", "answers"),
        may_have=(*_COMMON, "image_id", "_key", "imageURL", "split", "set_name"),
    ),
    "synthdog": Layout(read_synthdog, needs=("ground_truth",), may_have=(*_COMMON, "file_name")),
}

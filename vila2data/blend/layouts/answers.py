"""Questions with an answer, or with several people's answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import Label, answer_of, choice_of, choices_of
from vila2data.corpus.images import Problem

from .fields import images_of, text_of
from .layout import Layout, Record

Images = tuple[str | bytes, ...]


def read_question_answer(record: Record) -> Iterator[Annotation | Problem]:
    """A question about an image, about several, or about none where the record has none."""
    given = record.get("images") if record.get("images") is not None else record.get("image")
    about: Images | Problem = () if given is None or given == [] else pictures(given)
    if isinstance(about, Problem):
        yield about
    else:
        exchange = _exchange(record)
        yield exchange if isinstance(exchange, Problem) else annotation(record, about, [exchange])


def pictures(value: object) -> Images | Problem:
    """The images of a list, or the one image that a value is; a problem where any is missing."""
    expected = len(value) if isinstance(value, list | tuple) else 1
    found = images_of(value)
    if not found:
        return Problem("image_missing", "there is no image")
    if len(found) < expected:
        return Problem("image_missing", f"{expected - len(found)} of {expected} images")
    return tuple(found)


def annotation(
    record: Record,
    images: Images,
    exchanges: Sequence[Exchange],
    *,
    name: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Annotation:
    """What a record says of its images: named and grouped as its columns say.

    Args:
        record: with ``id`` and ``group``, where it has them.
        images: that it is about.
        exchanges: at least one.
        name: of the record, in the place of ``id``.
        origin: of the annotation.
    """
    names = [image for image in images if isinstance(image, str)]
    by_name = " ".join(names) if len(names) == len(images) else ""
    return Annotation(
        id=name or text_of(record.get("id")) or "",
        group=text_of(record.get("group")) or by_name,
        images=images,
        exchanges=tuple(exchanges),
        origin=origin or {},
    )


def single(
    record: Record, image: object, exchange: Exchange | Problem, name: str | None = None
) -> Annotation | Problem:
    """The one question of a record that must have an image, or what is wrong with either."""
    about = pictures(image)
    if isinstance(about, Problem):
        return about
    if isinstance(exchange, Problem):
        return exchange
    return annotation(record, about, [exchange], name=name)


def asked(
    question: object, answer: Label | Problem, *, place: int | None = None
) -> Exchange | Problem:
    """A question with its answer, or what is wrong with one of them.

    Args:
        question: as the source has it.
        answer: cleaned.
        place: of the exchange in its record, from 0, where there are several.
    """
    text = text_of(question)
    if text is None:
        answer = Problem("question_missing", "is no text")
    if isinstance(answer, Problem):
        where = answer.detail if place is None else f"exchange {place}: {answer.detail}"
        return Problem(answer.reason, where)
    return Exchange(text or "", answer.answer, cleaned=answer.rule)


def sorted_out(
    found: Iterable[Exchange | Problem],
) -> tuple[list[Exchange], list[Problem]]:
    """What can be used, and what cannot."""
    listed = list(found)
    return (
        [each for each in listed if isinstance(each, Exchange)],
        [each for each in listed if isinstance(each, Problem)],
    )


def _exchange(record: Record) -> Exchange | Problem:
    question, answer, options = (record.get(c) for c in ("question", "answer", "choices"))
    if options is None or options == []:
        return asked(question, answer_of(answer))
    choices = choices_of(options)
    if isinstance(choices, Problem):
        return choices
    label = choice_of(answer, choices, numbered=True)
    if isinstance(label, Label) and label.answer == answer:
        label = Label(label.answer)  # the text of a choice is how such answers are given
    return with_choices(asked(question, label), choices)


def with_choices(exchange: Exchange | Problem, choices: tuple[str, ...]) -> Exchange | Problem:
    """The exchange with choices, of which its answer is one."""
    if isinstance(exchange, Problem):
        return exchange
    return Exchange(exchange.question, exchange.answer, choices, cleaned=exchange.cleaned)


LAYOUTS: dict[str, Layout] = {
    "question_answer": Layout(
        read_question_answer,
        needs=("question", "answer"),
        may_have=("id", "group", "image", "images", "choices"),
    ),
}

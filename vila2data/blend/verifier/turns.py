"""What the conversation of a row must satisfy."""

from collections.abc import Iterator, Sequence

from .choices import lettered, place_of, rotation_of
from .measures import Measure
from .regions import region_problems
from .rows import Row
from .special import MARKER

_BYTES_PER_TOKEN = 4
_TOKENS_PER_TEXT = 4


def row_problems(row: Row, measure: Measure | None) -> Iterator[str]:
    """What is wrong with a row's messages; ``measure`` is None where its source is unknown."""
    if row.turns is None:
        yield "a message, its role or its content is null"
        return
    said = [content for _, content in row.turns]
    if not all(map(str.strip, said)):
        yield "a message is empty"
    if not said or [role for role, _ in row.turns] != ["user", "assistant"] * (len(said) // 2):
        yield "messages are not turns of user and assistant"
        return
    yield from _marker_problems(said, row.images, measure is None or measure.is_worded)
    if measure is not None:
        yield from _rule_problems(row, said, measure)


def _marker_problems(said: Sequence[str], images: int, is_worded: bool) -> Iterator[str]:
    first = said[0]
    if any(MARKER in content for content in said[1:]):
        yield "an <image> stands after the first question"
    if first.count(MARKER) != images:
        yield "the first question has not one <image> for each image"
    elif not is_worded and not f"{first}\n".startswith(f"{MARKER}\n" * images):
        yield "an <image> does not stand in a line of its own before the text"


def _rule_problems(row: Row, said: Sequence[str], measure: Measure) -> Iterator[str]:
    rules, count = measure.rules, len(said) // 2
    for name, most in (("max_exchanges", rules.max_exchanges), ("segment", rules.segment)):
        if most is not None and count > most:
            yield f"a row has more exchanges than {name}"
    if measure.max_tokens is not None and _tokens(said) > measure.max_tokens:
        yield "a row has more tokens than max_tokens"
    if measure.is_worded:
        return
    asked = questions_of(said, row.images)
    if measure.form is not None:
        yield from _form_problems(asked, said[1::2], measure.form, rules.form_in == "every")
        asked = [without_form(question, measure.form) for question in asked]
    if measure.has_boxes:
        yield from region_problems(asked, said[1::2])
    elif rules.merge and len(set(zip(asked, said[1::2], strict=True))) < count:
        yield "an exchange stands twice in a row"
    if rules.permute_choices:
        yield from _choice_problems(asked, said[1::2], rotation_of(row.id) is not None)


def questions_of(said: Sequence[str], images: int) -> list[str]:
    """The questions without the lines of the markers."""
    first = "\n".join(said[0].split("\n")[images:])
    return [first, *said[2::2]]


def without_form(question: str, form: str) -> str:
    """A question without its last line, where that is the sentence."""
    text, _, last = question.rpartition("\n")
    return text if last == form else question


def _form_problems(
    asked: Sequence[str], answers: Sequence[str], form: str, is_in_every: bool
) -> Iterator[str]:
    for number, question in enumerate(asked):
        if form not in question:
            ends, times = False, 0
        else:
            lines = question.split("\n")
            ends, times = lines[-1] == form, lines.count(form)
        if not ends and (is_in_every or number == 0):
            yield "a question does not end with the sentence that asks for a form of answer"
        may_stand = is_in_every or number == 0 or question == form
        if times > (1 if ends and may_stand else 0):
            yield "the sentence that asks for a form of answer stands where it must not"
    if any(form in answer and form in answer.split("\n") for answer in answers):
        yield "the sentence that asks for a form of answer stands where it must not"


def _choice_problems(
    asked: Sequence[str], answers: Sequence[str], is_rotation: bool
) -> Iterator[str]:
    """A row that is no rotation has no choices that the source tells apart from its question."""
    for question, answer in zip(asked, answers, strict=True):
        _, choices = lettered(question)
        place = place_of(answer)
        is_one = place is not None and place < len(choices)
        if is_rotation and not is_one and (choices or place is not None):
            yield "an answer is none of the letters of its question"
        if is_one and not is_rotation:
            yield "a row with choices is no rotation by its id"


def _tokens(said: Sequence[str]) -> int:
    """As an estimate counts, markers left out: no less than this."""
    sizes = (len(content.replace(MARKER, "").encode()) for content in said)
    return sum(-(-size // _BYTES_PER_TOKEN) + _TOKENS_PER_TEXT for size in sizes)

"""What the messages of a conversation must say, given what its relations and boxes are."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from vila2data.boxes import CONVENTIONS, Convention, Size
from vila2data.conversation.safety import find_special
from vila2data.errors import BadInput

from ..recipe import Questions, Semantics
from ..templates import Asked as Told
from ..templates import Template, template
from .relations import CAMERA
from .rows import Asked, Row

_IMAGE = "<image>"
_START = f"{_IMAGE}\n"
_NUMBERS = re.compile(r"\[[0-9., ]+\]")  # no part of any token, and much to search without need
_ROUNDING = 1e-6  # of single precision


def message_problems(row: Row) -> Iterator[str]:
    """What is wrong with the turns of a row, whatever they say."""
    messages, asked = row.messages or [], row.asked or []
    roles = [role for role, _ in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        yield "roles do not alternate"
    if len(messages) != 2 * len(asked):
        yield "there are not as many pairs of messages as relations"
    texts = [content for _, content in messages]
    if not texts or not texts[0].startswith(_START):
        yield "a conversation does not begin with <image>"
    if sum(text.lower().count(_IMAGE) for text in texts) != 1:
        yield "there is not exactly one <image>"


class Words:
    """The words as a recipe sets them.

    Attributes:
        questions, relations: of the recipe.
        convention: how boxes are written.
    """

    def __init__(self, questions: Questions, relations: Semantics) -> None:
        self.questions, self.relations = questions, relations
        self.convention: Convention = CONVENTIONS[questions.boxes]
        self._text = lru_cache(maxsize=1024)(self._written)  # a row names its boxes often

    def broken(self, row: Row, asked: Asked, question: str, answer: str) -> Iterator[str]:
        """What is wrong with one question and its answer; all numbers of boxes are sound."""
        question = question.removeprefix(_START)
        try:
            used = template(asked.template_id)
        except BadInput:
            yield "there is no such template"
            return
        if (used.family, used.relation) != (asked.family, asked.relation):
            yield "a template is another relation's"
            return
        told = used.parse(question)
        if told is None:
            yield "a question is not its template's"
        else:
            yield from self._question_problems(row, asked, told)
        if not self._is_answered(row, asked, used, told, answer):
            yield "an answer is not the target"

    def is_safe(self, row: Row, text: str) -> bool:
        """Whether a message holds no special token but those that boxes are written with."""
        text = text.removeprefix(_START)
        if find_special(_NUMBERS.sub(" ", text)) is None:
            return True
        rest, end = "", 0
        for found in self.convention.parse(text, (row.width, row.height)):
            rest, end = f"{rest}{text[end : found.start]} ", found.end
        return find_special(rest + text[end:]) is None

    def recipe_problems(self, row: Row) -> Iterator[str]:
        """What a row asks that the recipe does not, or asks too often."""
        asked = row.asked or []
        if len(asked) > self.questions.per_image:
            yield "there are more questions than the recipe's per_image"
        if any(not self.questions.balance.get(each.name, 0.0) for each in asked):
            yield "a relation has no share in the recipe"
        forms = {str(form) for form, share in self.questions.forms.items() if share}
        if any(each.form not in forms for each in asked):
            yield "a form of answer has no share in the recipe"
        texts = [content.removeprefix(_START) for _, content in (row.messages or [])[::2]]
        # What a yes-no question names is in its text alone; other forms ask for the same thing.
        keys = [
            (a.name, a.anchor, row.categories[a.target], text if a.form == "yes_no" else "")
            for a, text in zip(asked, texts, strict=False)
            if 0 <= a.target < len(row.categories)
        ]
        if len(set(texts)) < len(texts) or len(set(keys)) < len(keys):
            yield "a question is asked twice"

    def _question_problems(self, row: Row, asked: Asked, told: Told) -> Iterator[str]:
        anchor = None if asked.anchor == CAMERA else row.categories[asked.anchor]
        if told.target != row.categories[asked.target] or told.anchor != anchor:
            yield "a question names another class"
        if told.anchor_box is not None:
            if not self._is_of(row, asked.anchor, told.anchor_box):
                yield "a question gives another box for its anchor"
        elif anchor is not None and self.relations.anchors == "box":
            yield "a question gives no box for its anchor"
        elif anchor is not None and len(row.classes[anchor]) > 1:
            yield "a question's anchor could be another of its class"
        named = told.named_box
        if named is not None and not any(self._is_of(row, n, named) for n in asked.candidates):
            yield "a question names the box of no candidate"

    def _is_answered(
        self, row: Row, asked: Asked, used: Template, told: Told | None, answer: str
    ) -> bool:
        if used.form == "box":
            return self._is_of(row, asked.target, answer)
        if used.form == "yes_no":
            named = told.named_box if told is not None else None
            is_target = named is not None and self._is_of(row, asked.target, named)
            return answer == ("Yes." if is_target else "No.")
        box = self._text(tuple(row.bbox_norm[asked.target]), (row.width, row.height))
        anchor = None if asked.anchor == CAMERA else row.categories[asked.anchor]
        category = row.categories[asked.target]
        anchor_box = told.anchor_box if told is not None and anchor == category else None
        return box is not None and answer == used.reply(category, anchor, anchor_box, box=box)

    def _is_of(self, row: Row, number: int, text: str) -> bool:
        """Whether ``text`` is the box of that number."""
        return text == self._text(tuple(row.bbox_norm[number]), (row.width, row.height))

    def _written(self, bbox_norm: Sequence[float], size_px: Size) -> str | None:
        """How a box is written; None where it cannot be, or where another is read back."""
        try:
            text = self.convention.render(bbox_norm, size_px)
        except ValueError:  # no box in the image, which geometry tells
            return None
        most = self.convention.precision(size_px) + _ROUNDING
        read = self.convention.read(text, size_px)
        if read is None or any(abs(a - b) > most for a, b in zip(read, bbox_norm, strict=True)):
            return None
        return text

"""Questions and answers in English: the templates of ``templates.yaml``, filled and read back."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from vila2data.errors import BadInput

from .names import CAMERA_RELATIONS, FORMS, OBJECT_CAMERA, OBJECT_OBJECT, OBJECT_RELATIONS, Form
from .nouns import MAX_NAME_CHARS, category_name, load_yaml, noun


@lru_cache(maxsize=65536)
def _words(name: str) -> tuple[str, ...]:
    """What a noun puts into a template, in the order of ``_SLOTS``."""
    own = noun(name)
    if own.is_plural:
        return name, own.plural_form, "are", "Are", "they", "ones"
    return name, own.plural_form, "is", "Is", "it", "one"


_SLOTS = ("target", "targets", "is", "Is", "it", "one", "anchor", "named", "box")
_SLOT = re.compile(r"\{(\w+)\}")
_NAME = rf"[A-Za-z0-9][A-Za-z0-9' -]{{0,{MAX_NAME_CHARS - 1}}}"
_BOX = r"(?:\[[^\[\]\n]{1,200}\]|\{[^{}\n]{1,200}\}|<[^\n]{1,200}?>)"  # of any convention
_SHAPES = {
    "targets": _NAME,
    "is": "(?:is|are)",
    "Is": "(?:Is|Are)",
    "it": "(?:it|they)",
    "one": "ones?",
    "anchor": rf"the (?P<anchor>{_NAME})(?: (?P<anchor_box>{_BOX}))?",
    "named": rf"the (?P<target>{_NAME}) (?P<named_box>{_BOX})",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question asks about; None for what its template has no place for, or was not given."""

    target: str
    anchor: str | None = None
    anchor_box: str | None = None
    named_box: str | None = None


_Ready = tuple[str, Callable[[tuple[str, ...]], Any]]


def _ready(text: str) -> _Ready:
    """A text for ``%``, and what picks its values from those of all slots."""
    slots = [_SLOTS.index(slot) for slot in _SLOT.findall(text)]
    # One value more that is not shown: a single slot would give no tuple.
    return _SLOT.sub("%s", text.replace("%", "%%")) + "%.0s", itemgetter(*slots, 0)


@dataclass(frozen=True, slots=True)
class Template:
    """One way to ask for a relation, with its way to answer.

    Attributes:
        id: ``object_object.left_of.box.07``.
        question, answer: with the slots that ``templates.yaml`` describes; the answer of ``yes_no``
            is empty.
    """

    id: str
    form: Form
    family: str
    relation: str
    question: str
    answer: str
    _asked: _Ready = field(init=False, repr=False, compare=False)
    _answered: _Ready = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_asked", _ready(self.question))
        object.__setattr__(self, "_answered", _ready(self.answer))

    def ask(
        self,
        target: str,
        anchor: str | None = None,
        anchor_box: str | None = None,
        named_box: str | None = None,
    ) -> str:
        """The question.

        Args:
            target: category of what is asked for, as ``category_name`` gives it.
            anchor: category of the other object, None where the camera is the other.
            anchor_box: the anchor's box as text; None where its class alone names it.
            named_box: the box that a yes-no question asks about, as text.

        Raises:
            ValueError: the template has a place for what is None, or none for what is given.
        """
        if (not anchor) is (self.family == OBJECT_OBJECT):
            raise ValueError(f"{self.id}: the anchor is '{anchor}'")
        if (not named_box) is (self.form == "yes_no"):
            raise ValueError(f"{self.id}: the named box is '{named_box}'")
        other = f"the {anchor} {anchor_box}" if anchor_box else f"the {anchor}"
        named = f"the {target} {named_box}" if named_box else ""
        text, pick = self._asked
        question: str = text % pick((*_words(target), other, named))
        return question

    def reply(
        self,
        target: str,
        anchor: str | None = None,
        anchor_box: str | None = None,
        *,
        box: str = "",
        holds: bool = True,
    ) -> str:
        """The answer: the box, a sentence with it, or "Yes." and "No.".

        Args:
            target: as in ``ask``.
            anchor: as in ``ask``.
            anchor_box: as in ``ask``; without it a sentence names the anchor by its class.
            box: the target's, as text.
            holds: the truth of a yes-no question.
        """
        if self.form == "yes_no":
            return "Yes." if holds else "No."
        if not box:
            raise ValueError(f"{self.id}: an answer needs the target's box")
        other = f"the {anchor} {anchor_box}" if anchor_box else f"the {anchor}"
        text, pick = self._answered
        answer: str = text % pick((*_words(target), other, "", box))
        return answer

    def parse(self, question: str) -> Asked | None:
        """What ``question`` was asked with; None where this template does not ask it so."""
        match = _reader(self.question).fullmatch(question)
        if match is None:
            return None
        asked = Asked(**match.groupdict())
        names = [name for name in (asked.target, asked.anchor) if name is not None]
        if any(category_name(name) != name for name in names):
            return None
        again = self.ask(asked.target, asked.anchor, asked.anchor_box, asked.named_box)
        return asked if again == question else None


@cache
def _reader(question: str) -> re.Pattern[str]:
    pattern, known = "", set[str]()
    for place, part in enumerate(_SLOT.split(question)):
        if place % 2 == 0:
            pattern += re.escape(part)
        elif part in ("target", "named"):
            target = "(?P=target)" if "target" in known else f"(?P<target>{_NAME})"
            pattern += _SHAPES["named"] if part == "named" else target
            known.add("target")
        else:
            pattern += _SHAPES[part]
    return re.compile(pattern)


def templates(family: str, relation: str, form: Form) -> tuple[Template, ...]:
    """The templates of a relation and a form, always in the same order.

    Those of ``left_of`` and ``right_of``, and of ``left`` and ``right``, differ in that word alone.

    Raises:
        BadInput: there is no such relation or form.
    """
    found = _by_use().get((family, relation, form))
    if found is None:
        raise BadInput(f"there are no templates for '{family}.{relation}' as '{form}'")
    return found


def template(template_id: str) -> Template:
    """The template of that id.

    Raises:
        BadInput: there is none.
    """
    found = _by_id().get(template_id)
    if found is None:
        raise BadInput(f"there is no template '{template_id}'")
    return found


@cache
def _by_id() -> Mapping[str, Template]:
    return MappingProxyType({each.id: each for group in _by_use().values() for each in group})


@cache
def _by_use() -> Mapping[tuple[str, str, Form], tuple[Template, ...]]:
    relations = {OBJECT_OBJECT: OBJECT_RELATIONS, OBJECT_CAMERA: CAMERA_RELATIONS}
    return MappingProxyType(
        {
            (family, relation, form): tuple(_made(family, relation, form))
            for family, names in relations.items()
            for relation in names
            for form in FORMS
        }
    )


def _made(family: str, relation: str, form: Form) -> Iterator[Template]:
    content = load_yaml("templates.yaml")
    frames = content["questions"][form]
    used = list(frames["any"])
    if family == OBJECT_OBJECT:
        used += frames["anchored"]
        used += frames["seen"] if relation in content["directions"] else []
    answers = content["answers"].get(form, [""])
    number = 0
    for phrase in content["relations"][family][relation]:
        holding = f"the {{one}} {phrase}" if relation in content["superlatives"] else phrase
        for frame in used:
            answer = answers[number % len(answers)]
            question, reply = (
                text.replace("{relation}", phrase).replace("{holding}", holding)
                for text in (frame, answer)
            )
            number += 1
            name = f"{family}.{relation}.{form}.{number:02d}"
            yield Template(name, form, family, relation, question, reply)

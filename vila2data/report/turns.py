"""Conversations of a sample: turns with the number of their question and what their row says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite
from typing import Any

from .overlay import structs
from .space import CAMERA, MAX_QUESTIONS

_MAX_CHARS = 6_000
_MAX_TURNS = 2 * MAX_QUESTIONS
_MAX_CANDIDATES = 12
_MAX_NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class Text:
    """A text as shown; ``hidden_chars`` more were cut off."""

    shown: str
    hidden_chars: int

    @classmethod
    def of(cls, value: object) -> "Text":
        """The start of a text."""
        text = "" if value is None else str(value)
        return cls(text[:_MAX_CHARS], max(len(text) - _MAX_CHARS, 0))


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        question: its number, from 1, where the row says what each of its questions asks.
    """

    role: str
    text: Text
    note: str
    question: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a row; ``hidden_turns`` more were cut off."""

    title: str
    turns: list[Turn]
    hidden_turns: int


def conversation_of(title: str, values: Mapping[str, Any]) -> Conversation | None:
    """The conversation of a row; None where it has none."""
    turns = list(_messages(values)) or list(_questions(values))
    if not turns:
        return None
    return Conversation(title, turns[:_MAX_TURNS], max(len(turns) - _MAX_TURNS, 0))


def _messages(values: Mapping[str, Any]) -> Iterator[Turn]:
    notes = _notes(values)
    related = len(structs(values.get("relations")))
    answered = 0
    for message in structs(values.get("messages")):
        role = str(message.get("role"))
        question = answered + 1 if answered < related else None
        note = ""
        if role == "assistant":
            note = notes[answered] if answered < len(notes) else ""
            answered += 1
        yield Turn(role[:40], Text.of(message.get("content")), note, question)


def _notes(values: Mapping[str, Any]) -> list[str]:
    """What each answer is, where the row says so: its task and question, or its relation."""
    columns = [c for name in ("tasks", "question_ids") if isinstance(c := values.get(name), list)]
    if columns:
        return [", ".join(str(v) for v in told if v is not None) for told in zip_longest(*columns)]
    return [_relation(relation) for relation in structs(values.get("relations"))[:MAX_QUESTIONS]]


def _relation(relation: Mapping[str, Any]) -> str:
    gap = relation.get("gap")
    margin = f", gap {gap:.2f} m" if isinstance(gap, int | float) and isfinite(gap) else ""
    names = [str(relation.get(part))[:_MAX_NAME_CHARS] for part in ("family", "relation")]
    anchor = relation.get("anchor")
    whence = "the camera" if anchor == CAMERA else anchor
    return (
        f"{': '.join(names).replace('_', ' ')}, target {relation.get('target')}{margin}, "
        f"anchor {whence}{_candidates(relation.get('candidates'))}"
    )


def _candidates(value: object) -> str:
    if not isinstance(value, list) or not value:
        return ""
    more = f" and {len(value) - _MAX_CANDIDATES} more" if value[_MAX_CANDIDATES:] else ""
    return ", candidates " + " ".join(str(place) for place in value[:_MAX_CANDIDATES]) + more


def _questions(values: Mapping[str, Any]) -> Iterator[Turn]:
    for item in structs(values.get("questions")):
        yield Turn("user", Text.of(item.get("question")), "")
        yield Turn("assistant", Text.of(item.get("answer")), str(item.get("kind") or ""))

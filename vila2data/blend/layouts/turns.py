"""LLaVA's conversations."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.corpus.images import Problem

from .answers import annotation, pictures
from .fields import text_of
from .layout import Layout, Record
from .texts import name_of

Turns = Sequence[Mapping[str, Any]]

ROLES = ("human", "gpt")
"""As the records spell them; they alternate, the human first."""

_NAMED = ("id", "image", "model")
_COLUMNS = frozenset({*_NAMED, "conversations"})
_TURN = frozenset({"from", "value"})
_MAX_DEPTH = 64  # of a value of another key, which is kept as it is


def read_turns(record: Record) -> Iterator[Annotation | Problem]:
    """A conversation, worded as it stands, about an image, several or none.

    Turns before the human's first, and a last question without an answer, are left out. A
    conversation whose roles do not alternate is refused as a whole, as Vicuna's cleaning does.

    With the exchanges, ``origin`` gives the record back:

    - ``id``, ``image``, ``model``: as the record has them, where it has them;
    - ``other``: its other keys, but for ``conversations``;
    - ``turns``: by number of turn from 0, what a turn has beside ``from`` and ``value``.

    Values that JSON cannot hold, such as the bytes of an image, are left out; so are ``other`` and
    ``turns`` where they are empty.

    Source: LLaVA-1.5 A.2, rule 2; FastChat fastchat/data/split_long_conversation.py, which drops
    conversations of broken roles and odd last turns, and LLaVA's feed, which skips a first turn
    that is not the human's.
    """
    given = record.get("image")
    images = () if given in (None, "", []) else pictures(given)
    turns = _turns(record.get("conversations"))
    if isinstance(images, Problem):
        yield images
    elif isinstance(turns, Problem):
        yield turns
    else:
        whole, cleaned = turns
        name = text_of(record.get("id")) or name_of(*(turn["value"] for turn in whole))
        exchanges, origin = _exchanges(whole, cleaned), _origin(record, whole)
        yield annotation(record, images, exchanges, name=name, origin=origin)


def _turns(value: object) -> tuple[Turns, str | None] | Problem:
    """The turns that make whole exchanges, and the rule that left others out."""
    if not isinstance(value, list) or not value:
        return Problem("conversation_missing", "conversations: is no list of turns")
    for number, turn in enumerate(value):
        if not _is_turn(turn):
            return Problem("turn_unreadable", f"turn {number} has no texts from and value")
    start = next((n for n, turn in enumerate(value) if turn["from"] == ROLES[0]), len(value))
    whole = value[start : len(value) - (len(value) - start) % 2]
    cleaned = "turns_before_human" if start else None
    for number, turn in enumerate(value[start:]):
        if turn["from"] != ROLES[number % 2]:
            expected = f"turn {start + number} is {ROLES[number % 2]}'s"
            return Problem("roles_broken", f"{turn['from']}; {expected}")
    if not whole:
        return Problem("conversation_missing", "no question with an answer")
    for number, turn in enumerate(whole):
        if not turn["value"].strip():
            missing = ("question_missing", "answer_missing")[number % 2]
            return Problem(missing, f"turn {start + number} is empty")
    if (len(value) - start) % 2:
        cleaned = cleaned or "last_question_without_answer"
    return whole, cleaned


def _is_turn(turn: object) -> bool:
    return isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in _TURN)


def _exchanges(turns: Turns, cleaned: str | None) -> list[Exchange]:
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return [
        Exchange(human["value"], gpt["value"], cleaned=cleaned if number == 0 else None)
        for number, (human, gpt) in enumerate(pairs)
    ]


def _origin(record: Record, turns: Turns) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if _is_plain(value)}
    other = {key: value for key, value in kept.items() if key not in _COLUMNS}
    more = {
        str(number): {key: v for key, v in turn.items() if key not in _TURN and _is_plain(v)}
        for number, turn in enumerate(turns)
        if len(turn) > len(_TURN)
    }
    origin: dict[str, Any] = {key: kept[key] for key in _NAMED if key in kept}
    return origin | ({"other": other} if other else {}) | ({"turns": more} if more else {})


def _is_plain(value: object, depth: int = _MAX_DEPTH) -> bool:
    """Whether JSON holds the value and gives it back."""
    if isinstance(value, dict):
        return depth > 0 and all(
            isinstance(key, str) and _is_plain(held, depth - 1) for key, held in value.items()
        )
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(held, depth - 1) for held in value)
    if isinstance(value, float):
        return isfinite(value)
    return value is None or isinstance(value, str | int)


LAYOUTS: dict[str, Layout] = {
    "turns": Layout(read_turns, needs=("conversations",), may_have=_NAMED, worded=True),
}

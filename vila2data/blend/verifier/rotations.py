"""Whether the rows that rotate the choices of one conversation are all there and agree."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .choices import lettered, place_of, rotation_of
from .measures import Measure
from .rows import Row
from .turns import questions_of, without_form


@dataclass(slots=True)
class _Turns:
    """Rotations of one conversation: how often each was seen, of how many."""

    first_id: str
    wanted: int = 0
    may_be_more: bool = False
    seen: Counter[int] = field(default_factory=Counter)


class Rotations:
    """Collects rows of sources whose choices are rotated.

    Each row is turned back by its number: all rotations of a conversation must then be the same. A
    rotation that is wrong differs, and is missing among the others. In memory a conversation takes
    a few hundred bytes.
    """

    def __init__(self) -> None:
        self._turns: dict[int, _Turns] = {}

    def add(self, row: Row, measure: Measure) -> None:
        """Notes a row; one without choices is no rotation."""
        name = rotation_of(row.id)
        if name is None or not row.turns:
            return
        said = [content for _, content in row.turns]
        read = [lettered(_plain(q, measure)) for q in questions_of(said, row.images)]
        if not any(choices for _, choices in read):
            return
        back = [
            (text, *_turned_back(choices, answer, name[1]))
            for (text, choices), answer in zip(read, said[1::2], strict=False)
        ]
        is_cut = measure.rules.max_tokens is not None
        if is_cut:
            back = back[:1]  # rotations may be cut at different lengths
        # What was cut away may have had more choices.
        may_be_more = is_cut or measure.rules.segment is not None
        key = hash((row.source, name[0], name[2], tuple(back)))
        turns = self._turns.setdefault(key, _Turns(row.id, may_be_more=may_be_more))
        turns.seen[name[1]] += 1
        turns.wanted = max(turns.wanted, *(len(choices) for _, choices, _ in back))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each broken rule with an id."""
        for turns in self._turns.values():
            count = len(turns.seen)
            is_whole = count == turns.wanted or (turns.may_be_more and count > turns.wanted)
            if not is_whole or max(turns.seen) >= count or len(set(turns.seen.values())) > 1:
                yield "the rotations of a row's choices are not all there", turns.first_id


def _plain(question: str, measure: Measure) -> str:
    return question if measure.form is None else without_form(question, measure.form)


def _turned_back(choices: Sequence[str], answer: str, number: int) -> tuple[tuple[str, ...], str]:
    """The choices as rotation 0 has them, and the text that the answer names."""
    if not choices:
        return (), answer
    by = number % len(choices)
    place = place_of(answer)
    meant = answer if place is None or place >= len(choices) else choices[place]
    return (*choices[len(choices) - by :], *choices[: len(choices) - by]), meant

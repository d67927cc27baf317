"""Which category of a list a phrase names, by the words at its head."""

import re
from collections.abc import Iterable
from functools import lru_cache

from vila2data.nouns import singular

_AFTER_HEAD = frozenset(
    ("of", "in", "on", "with", "for", "at", "by", "from", "to", "near", "that", "which", "who")
)
_ENDS = ".,;:!?\"'()[]"
_MEASURES = """
    group bunch pair set number couple crowd herd flock pack team row line stack pile piece slice
    lot variety collection kind type some many few both one two three four several
"""
_MAX_NAME_WORDS = 4

_SAME = """couch sofa|tv television monitor|airplane aeroplane plane aircraft|bicycle bike
motorcycle motorbike|cell-phone cellphone mobile-phone smartphone phone|refrigerator fridge
hair-drier hair-dryer hairdryer|donut doughnut|dining-table table|potted-plant plant houseplant
tennis-racket tennis-racquet racket racquet|fire-hydrant hydrant|sports-ball ball
teddy-bear teddy stuffed-bear|hot-dog hotdog|wine-glass wineglass|handbag purse
backpack rucksack|suitcase luggage|tie necktie|cup mug|remote remote-control
stop-sign stopsign|traffic-light traffic-signal stoplight|skis ski|surfboard surf-board"""
_KINDS = """person: man woman boy girl child kid baby toddler infant lady gentleman guy adult
teenager player batter catcher umpire rider cyclist biker skier snowboarder skateboarder
surfer pedestrian passenger driver policeman fireman worker chef bride groom spectator
dog: puppy|cat: kitten|cow: bull calf|horse: pony foal|sheep: lamb|bird: seagull duck goose pigeon
parrot swan|airplane: jet airliner biplane|car: taxi cab sedan suv|boat: ship sailboat canoe kayak
bottle: beer-bottle wine-bottle|chair: armchair stool|clock: clock-tower"""
_LISTED = re.compile(r"\s*(?:/|,|;|\||\bor\b)\s*")
_NEW_GROUP = re.compile(r"[|\n]")
_MEASURE_WORDS = frozenset(_MEASURES.split())
_ASIDE = re.compile(r"\([^()]*\)")


def head_words(phrase: str) -> list[str]:
    """The words of a phrase up to its head noun, which is singular; of "a group of dogs" those
    after "of".
    """
    words = [word.strip(_ENDS).removesuffix("'s").removesuffix("’s") for word in phrase.split()]
    words = [word.lower() for word in words if word]
    while (cut := _cut(words)) and words[cut] == "of" and words[cut - 1] in _MEASURE_WORDS:
        words = words[cut + 1 :]
    words = words[: _cut(words)]
    return [*words[:-1], singular(words[-1])] if words else []


def _cut(words: list[str]) -> int | None:
    """Where the head ends before what describes it."""
    return next((n for n, word in enumerate(words) if n and word in _AFTER_HEAD), None)


class Categories:
    """Finds the category that a phrase names.

    A name may list several (``cabinet/shelf``); words in parentheses are left out. Listed synonyms
    and kinds (a puppy is a dog) count where no category has that name itself.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_words: dict[tuple[str, ...], str] = {}
        names = sorted(set(names))
        for name in names:
            for part in _LISTED.split(_ASIDE.sub("", name.replace("_", " "))):
                self._by_words.setdefault(tuple(head_words(part.replace("-", " "))), name)
        self._by_words.pop((), None)
        own = dict(self._by_words)
        for word, others in _synonyms():
            if word in own:
                for other in others:
                    self._by_words.setdefault(other, own[word])
        self.named = lru_cache(100_000)(self._named)

    def _named(self, phrase: str) -> str | None:
        words = tuple(head_words(phrase.replace("-", " ")))
        for length in range(min(len(words), _MAX_NAME_WORDS), 0, -1):
            if name := self._by_words.get(words[-length:]):
                return name
        return None


def _synonyms() -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """A name and what else it is called, in words."""
    found = []
    for group in _NEW_GROUP.split(_SAME):
        members = [_words(member) for member in group.split()]
        found += [(member, [m for m in members if m != member]) for member in members]
    for name, _, kinds in (line.partition(":") for line in re.split(r"[|\n](?=[a-z]+:)", _KINDS)):
        found.append((_words(name), [_words(kind) for kind in kinds.split()]))
    return found


def _words(member: str) -> tuple[str, ...]:
    return tuple(head_words(member.replace("-", " ")))

"""What people call the categories of sources, and the grammar of those names.

The exceptions stand in ``categories.yaml``.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import inflect

MAX_NAME_CHARS = 60
_MAX_RAW_CHARS = 200
_MAX_WORDS = 5

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")  # TrafficCone, TVStand
_BETWEEN_WORDS = re.compile(r"[ _-]+")
_QUALIFIER = re.compile(r" ?_?\([^()]*\)")  # bow (weapon)
_PLAIN = re.compile(r"[A-Za-z0-9]+(?:(?:[ _-]+|[./'])[A-Za-z0-9]+)*")
_PREPOSITION = re.compile(r" (?:of|in|on|with|for) ")
_AN = re.compile(
    r"(?!(?i:eu|one\b|once|uni(?!n)|us|ut|uk|uri))(?i:[aeiou]|hour|heir|honest)(?![A-Z0-9])"
    r"|[AEFHILMNORSX][A-Z]*s?\b"  # said by its letters: an RV
)


@cache
def load_yaml(file: str) -> dict[str, Any]:
    """The content of a YAML file beside this module."""
    text = (files(__package__ or "") / file).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@lru_cache(maxsize=65536)
def category_name(raw: str) -> str | None:
    """What a person calls the category that a source calls ``raw``; None where it names no object.

    The name is of letters, digits, spaces, hyphens and apostrophes alone, so that it can neither
    act as a special token nor be taken for a box; it is bounded, and its own name.

    Example:
        >>> category_name("movable_object.trafficcone"), category_name("DontCare")
        ('traffic cone', None)
    """
    folded = _folded(raw)
    if folded is None:
        return None
    names: Mapping[str, str | None] = load_yaml("categories.yaml")["names"]
    last = folded.rpartition(".")[2]
    for key in (folded, last):
        if key in names:
            return names[key]
    parts = [_spoken(part) for part in last.split("/")]
    name = " or ".join(dict.fromkeys(part for part in parts if part is not None))
    return name if None not in parts and len(name) <= MAX_NAME_CHARS else None


def _folded(raw: str) -> str | None:
    """Lower case, words apart; None where it holds what no name holds."""
    if len(raw) > _MAX_RAW_CHARS:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKD", raw) if not unicodedata.combining(c))
    plain = _QUALIFIER.sub("", plain).strip(" _-\t\r\n")
    if not _PLAIN.fullmatch(plain):
        return None
    folded = _BETWEEN_WORDS.sub(" ", _HUMP.sub(" ", plain)).lower()
    return folded.removeprefix("type ")  # Waymo's TYPE_VEHICLE


def _spoken(folded: str) -> str | None:
    """The words of a name without dots and slashes, None where they name no object."""
    lists = load_yaml("categories.yaml")
    words = [word for word in folded.split() if not word.isdigit()]  # chair_01
    if folded in lists["nothing"] or not 1 <= len(words) <= _MAX_WORDS:
        return None
    if words[0] in lists["vague"] or not set(words).isdisjoint(lists["reserved"]):
        return None
    if sum(letter.isalpha() for letter in folded) < 2:
        return None
    return " ".join(_acronym(word, lists["acronyms"]) for word in words)


def _acronym(word: str, acronyms: Sequence[str]) -> str:
    if word in acronyms:
        return word.upper()
    return f"{word[:-1].upper()}s" if word.endswith("s") and word[:-1] in acronyms else word


@dataclass(frozen=True, slots=True)
class Noun:
    """A name of a category with its grammar.

    Attributes:
        singular_form: of one; the plural where nobody says it of one.
        plural_form: of several.
        article: "a" or "an", "" where it takes none.
        is_plural: whether the name itself is plural: "shelves".
    """

    singular_form: str
    plural_form: str
    article: str
    is_plural: bool


@lru_cache(maxsize=65536)
def noun(name: str) -> Noun:
    """The grammar of a name that ``category_name`` gave.

    Example:
        >>> noun("SUV")
        Noun(singular_form='SUV', plural_form='SUVs', article='an', is_plural=False)
    """
    lists = load_yaml("categories.yaml")
    if name in lists["mass"]:
        return Noun(name, lists["mass"][name], "", is_plural=False)
    if _singular(_head(name)) is not None:
        singular = " or ".join(_with_head(part, _singular) for part in name.split(" or "))
        return Noun(singular, name, "", is_plural=True)
    plural = " or ".join(_with_head(part, _plural) for part in name.split(" or "))
    return Noun(name, plural, "an" if _AN.match(name) else "a", is_plural=False)


def _head(name: str) -> str:
    return _PREPOSITION.split(name)[0].rpartition(" ")[2]


def _with_head(name: str, change: Callable[[str], str | None]) -> str:
    first = _PREPOSITION.split(name)[0]
    head = _head(name)
    return f"{first.removesuffix(head)}{change(head) or head}{name[len(first) :]}"


def _plural(word: str) -> str:
    if word.isupper():  # by its letters: TVs
        return f"{word}s"
    known: str | None = load_yaml("categories.yaml")["nouns"].get(word)
    return known or _engine().plural_noun(word)


def _singular(word: str) -> str | None:
    """The singular of a plural, None where ``word`` is none."""
    lists = load_yaml("categories.yaml")
    if word in lists["plurals"]:
        return str(lists["plurals"][word])
    if word in lists["nouns"] or not word.endswith("s") or word.endswith(("ss", "us", "is", "as")):
        return None
    if word[:-1].isupper():
        return word[:-1]
    singular = str(_engine().singular_noun(word) or word)
    return singular if singular != word and _plural(singular) == word else None


@cache
def _engine() -> "inflect.engine":
    import inflect  # takes seconds, and the words of the common sources do not need it

    return inflect.engine()

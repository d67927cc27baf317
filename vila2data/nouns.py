"""The singular of English nouns by a stated rule: the same in every version of every library."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import yaml


@cache
def irregular_nouns() -> Mapping[str, str]:
    """Singular by plural of the nouns that the rule of ``singular`` does not give."""
    text = (files(__package__ or "") / "nouns.yaml").read_text(encoding="utf-8")
    nouns: dict[str, str] = yaml.safe_load(text)
    return nouns


def singular(word: str) -> str:
    """The singular of a lower-case noun; the rule is stated in docs/grounding.md.

    Example:
        >>> singular("sandwiches"), singular("buses"), singular("glass")
        ('sandwich', 'bus', 'glass')
    """
    if word in irregular_nouns():
        return irregular_nouns()[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes", "zes")) else word[:-1]

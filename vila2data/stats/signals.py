"""Quality signals of a caption, computed once when it is written, so that statistics are column
scans.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+\S", re.MULTILINE)
_MIN_LIST_ITEMS = 2
_SHORT_RUN_WORDS = 6


@dataclass(frozen=True, slots=True)
class Signals:
    """Signals of one text; the fields are columns of every caption table.

    Attributes:
        num_words: pieces between white space.
        num_chars: Unicode code points.
        num_sentences: runs of ``.``, ``!`` or ``?`` that end a piece, at least 1 where there is a
            word; abbreviations
            count as ends.
        distinct_ratio: distinct words over words, case folded; 1 where there are none.
        repeated_ngram_share: length of the longest run of words that occurs twice (overlaps count),
            over ``num_words``:
            about 0.03 in good long captions, near 1 in a loop.
        compression_ratio: UTF-8 bytes over their zlib size; loops compress well. Source: Whisper's
            decoding rule, which
            calls 2.4 a failed transcript.
        list_format: at least two lines are list items.
    """

    num_words: int
    num_chars: int
    num_sentences: int
    distinct_ratio: float
    repeated_ngram_share: float
    compression_ratio: float
    list_format: bool


def signals_of(text: str) -> Signals:
    """The quality signals of ``text``."""
    words = text.lower().split()
    encoded = text.encode("utf-8", "surrogatepass")
    count = len(words)
    return Signals(
        num_words=count,
        num_chars=len(text),
        num_sentences=max(len(_SENTENCE_END.findall(text)), min(count, 1)),
        distinct_ratio=len(set(words)) / count if count else 1.0,
        repeated_ngram_share=longest_repeat(words) / count if count else 0.0,
        compression_ratio=len(encoded) / len(zlib.compress(encoded, 1)) if encoded else 0.0,
        list_format=len(_LIST_ITEM.findall(text)) >= _MIN_LIST_ITEMS if "\n" in text else False,
    )


def longest_repeat(words: Sequence[str]) -> int:
    """Length of the longest run of words that occurs at two places, which may overlap.

    Short runs, all that good captions repeat, are found by comparing sets of n-grams.

    Example:
        >>> longest_repeat("a red car and a red bus".split())
        2
        >>> longest_repeat("so so so so".split())
        3
    """
    for length in range(1, _SHORT_RUN_WORDS + 1):
        runs = len(words) - length + 1
        if runs < 2 or len(set(zip(*(words[i:] for i in range(length)), strict=False))) == runs:
            return length - 1
    return _longest_repeat_by_doubling(words)


def _longest_repeat_by_doubling(words: Sequence[str]) -> int:
    """The same for any text in O(n log n), however its words repeat.

    Runs are compared by number: two halves of the same numbers make the same run of twice the
    length. Lengths double while a run repeats, and then grow by smaller and smaller halves.
    """
    doubled: list[list[int]] = []  # numbers of the runs of 1, 2, 4, ... words, by where they start
    runs: Sequence[object] = words
    while (numbers := _numbers_if_repeated(runs)) is not None:
        doubled.append(numbers)
        runs = list(zip(numbers, numbers[1 << len(doubled) - 1 :], strict=False))
    if not doubled:
        return 0
    length, longest = 1 << len(doubled) - 1, doubled[-1]
    for half in reversed(range(len(doubled) - 1)):
        numbers = _numbers_if_repeated(list(zip(longest, doubled[half][length:], strict=False)))
        if numbers is not None:
            length, longest = length + (1 << half), numbers
    return length


def _numbers_if_repeated(runs: Sequence[object]) -> list[int] | None:
    """The same number for the same run; None where no run occurs twice."""
    if len(set(runs)) == len(runs):
        return None
    known: dict[object, int] = {}
    return [known.setdefault(run, len(known)) for run in runs]

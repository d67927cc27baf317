"""Keys of questions and answers: the same for texts that differ in case, spaces or punctuation."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vila2data.keyed import keyed_hash
from vila2data.prompts import load_prompts

_WORDS_BITS = 8
MAX_WORDS = (1 << _WORDS_BITS) - 1
"""What a key tells of longer texts too."""

_MARKER = re.compile(r"<(?:image|video)>")
_CHOICE = re.compile(r"\s*\(?([A-Z])[.):]\s+(\S.*)")
_LETTER = re.compile(r"\s*\(?([A-Z])[.):]?\s*")
_MARKS = re.compile(r"(?![-.,/:+]\d)[^\w\s+=<>%]|_")
_WITHIN_WORDS = re.compile(r"(?<=\w)['’](?=\w)")
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class TextKeys:
    """Keys of a conversation, each once, in order.

    Attributes:
        exchanges: of each question with its answer.
        questions: of each question.
    """

    exchanges: tuple[int, ...]
    questions: tuple[int, ...]


def text_keys(messages: Iterable[Mapping[str, Any]]) -> TextKeys:
    """The keys of the exchanges of a conversation.

    Markers of images, sentences that ask for a form of answer, the order of choices and their
    letters make no difference: an answer that is a letter stands for its choice. Questions and
    answers of which nothing is left have no key.

    Args:
        messages: turns with ``role`` and ``content``, as data sets have them; turns of other roles
            than ``user`` and ``assistant`` are left out.
    """
    exchanges: dict[int, None] = {}
    questions: dict[int, None] = {}
    for question, answer in _exchanges(messages):
        asked, answered = _parts(question, answer)
        if asked:
            half = _count(asked) // 2
            questions[_key(half, "question", asked)] = None
            if answered:
                exchanges[_key(half + _count(answered), "exchange", asked, answered)] = None
    return TextKeys(tuple(exchanges), tuple(questions))


def words_of(key: int) -> int:
    """How much text a key stands for, in words, at most ``MAX_WORDS``.

    The words of an answer count whole, those of a question half: questions recur, and with them
    answers of a word.
    """
    return key & MAX_WORDS


def normalised(text: str) -> str:
    """The text as keys see it: NFKC, no case, no punctuation, one space between words.

    Signs that stand before a digit are kept, since 2.5 is not 25.

    Example:
        >>> normalised("What  is THAT (a dog's  tail)?  2.5 m")
        'what is that a dogs tail 2.5 m'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_MARKS.sub(" ", _WITHIN_WORDS.sub("", folded)).split())


def _exchanges(messages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    question = ""
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            continue
        if role == "user":
            question = content
        elif role == "assistant":
            yield question, content
            question = ""


def _parts(question: str, answer: str) -> tuple[str, str]:
    """Question with its choices, and answer, normalised."""
    lines = _MARKER.sub(" ", question).splitlines()
    choices = {m[1]: m[2] for line in lines if (m := _CHOICE.fullmatch(line))}
    asked = [line for line in lines if not _CHOICE.fullmatch(line)] if len(choices) > 1 else lines
    text = normalised(" ".join(asked))
    for sentence in _form_sentences():
        text = text.removesuffix(sentence).rstrip()
    if len(choices) < 2:
        return text, normalised(answer)
    letter = _LETTER.fullmatch(answer)
    chosen = choices.get(letter[1], answer) if letter else answer
    return " ".join([text, *sorted(map(normalised, choices.values()))]), normalised(chosen)


@cache
def _form_sentences() -> tuple[str, ...]:
    """Sentences that say nothing of the question, the longest first."""
    texts = (prompt.text for prompt in load_prompts().values() if prompt.use == "format")
    return tuple(sorted(map(normalised, texts), key=lambda text: (-len(text), text)))


def _count(text: str) -> int:
    """Words; a character that is written without spaces is one."""
    return len(text.split()) + (0 if text.isascii() else len(_UNSPACED.findall(text)))


def _key(words: int, *texts: str) -> int:
    """56 bits of hash above 8 that count words."""
    return keyed_hash(*texts) >> _WORDS_BITS << _WORDS_BITS | min(words, MAX_WORDS)

"""What a row's text must be, read from the text back to the caption and the boxes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

from vila2data.boxes import Box, Convention, Size
from vila2data.conversation import find_special, neutralise
from vila2data.prompts import prompt

from ..recipe import Questions

REFER, DESCRIBE = "format-locate-region", "format-describe-region"

_IMAGE = "<image>"
_ROUNDING = 1e-6  # boxes are stored as float32
_HELD = "\ufffc"
_UNSAFE = "a special token or role label was left in"


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A phrase; ``text`` as it stands in the safe caption."""

    stored: str
    text: str
    start: int
    end: int
    boxes: list[Box]


def grounding_problems(row: Mapping[str, Any], questions: Questions) -> Iterator[str]:
    """What is wrong with the grounded caption of a row whose phrases and boxes are sound."""
    reader, safe = _Reader.of(row, questions), _made_safe(row, questions.convention)
    if reader.convention.stands_in(safe):
        yield "a caption holds what has the form of a box"
        return
    told = row["grounded_caption"] or ""
    yield from reader.grounding_problems(told, safe, _phrases(row, safe))
    if reader.is_unsafe(told):
        yield _UNSAFE


def turn_problems(row: Mapping[str, Any], questions: Questions) -> Iterator[str]:
    """What is wrong with the messages of such a row."""
    turns = _turns(row["messages"])
    if turns is None:
        yield "messages are not turns of user and assistant"
        return
    yield from _marker_problems(turns)
    if turns[0][1] != row["grounded_caption"]:
        yield "the first answer is not grounded_caption"
    reader = _Reader.of(row, questions)
    # The first answer was read as the grounded caption.
    if any(reader.is_unsafe(said) for said in [turns[0][0], *chain.from_iterable(turns[1:])]):
        yield _UNSAFE
    ids = row["question_ids"] or []
    if len(ids) != len(turns) or None in ids:
        yield "question_ids does not name each answer's question"
        return
    yield from _narration_problems(ids[0], turns[0][0], questions)
    further = list(zip(ids, turns, strict=True))[1:]
    phrases = _phrases(row, _made_safe(row, questions.convention)) if further else []
    phrases = [replace(p, text=neutralise(p.text)) for p in phrases]  # each stands by itself there
    yield from _further_problems(further, phrases, questions, reader)


def _made_safe(row: Mapping[str, Any], convention: Convention) -> str:
    """The caption without what could act as a token, by itself or with what the convention writes
    around its phrases; as long as the caption.
    """
    safe = neutralise(row["caption"])
    ends = ("end",) if convention.phrase.startswith("{}") else ("start", "end")
    edges = [0, *(phrase[end] for phrase in row["phrases"] for end in ends), len(safe)]
    held = neutralise(_HELD.join(safe[a:b] for a, b in pairwise(edges)))
    begins = [edge + place for place, edge in enumerate(edges)]
    return "".join(held[a : b - 1] for a, b in pairwise(begins))


def _phrases(row: Mapping[str, Any], safe: str) -> list[_Phrase]:
    return [
        _Phrase(p["text"] or "", safe[p["start"] : p["end"]], p["start"], p["end"], p["boxes"])
        for p in row["phrases"]
    ]


def _turns(messages: Sequence[Mapping[str, Any] | None] | None) -> list[tuple[str, str]] | None:
    """Each question with its answer; None where the messages are not such pairs."""
    roles = ["user", "assistant"] * (len(messages or ()) // 2)
    said = [(m["role"], m["content"]) for m in messages or () if m and m["content"] is not None]
    if not said or len(said) != len(messages or ()) or [role for role, _ in said] != roles:
        return None
    return [(said[n][1], said[n + 1][1]) for n in range(0, len(said), 2)]


def _marker_problems(turns: Sequence[tuple[str, str]]) -> Iterator[str]:
    count = sum(said.count(_IMAGE) for turn in turns for said in turn)
    if count != 1 or not turns[0][0].startswith(_IMAGE):
        yield "there is not exactly one <image>, at the start"


def _narration_problems(name: str, question: str, questions: Questions) -> Iterator[str]:
    if not questions.narration.get(name, 0):
        yield "the first question is none of the recipe's"
    elif question.removeprefix(_IMAGE).strip() != prompt(name).text:
        yield "the first question is not what question_ids names"


def _further_problems(
    turns: Sequence[tuple[str, tuple[str, str]]],
    phrases: Sequence[_Phrase],
    questions: Questions,
    reader: "_Reader",
) -> Iterator[str]:
    names = [name for name, _ in turns]
    if set(names) - {REFER, DESCRIBE} or names != sorted(names, reverse=True):
        yield "a further question is none of refer, then describe"
        return
    if names.count(REFER) > questions.refer or names.count(DESCRIBE) > questions.describe:
        yield "there are more further questions than the recipe's"
    known = Counter(phrase.stored for phrase in phrases)
    left = [p for p in phrases if known[p.stored] == 1 and any(c.isalpha() for c in p.stored)]
    for name, (question, answer) in turns:
        asks = reader.refers if name == REFER else reader.describes
        about = next((p for p in left if asks(question, answer, p)), None)
        if about is None:
            yield "a further question and its answer are not about one phrase"
            return
        left.remove(about)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads boxes of one convention, in an image of ``size``, where it counts pixels."""

    convention: Convention
    size: Size | None

    @classmethod
    def of(cls, row: Mapping[str, Any], questions: Questions) -> "_Reader":
        """That of a row."""
        convention = questions.convention
        return cls(convention, (row["width"], row["height"]) if convention.steps is None else None)

    def grounding_problems(
        self, grounded: str, safe: str, phrases: Sequence[_Phrase]
    ) -> Iterator[str]:
        """What is wrong where a text is read as a caption with the boxes of its phrases."""
        found = {f.start: f for f in self.convention.parse(grounded, self.size)}
        at = end = 0
        for phrase in phrases:
            said = safe[end : phrase.start] + self.convention.phrase.replace("{}", phrase.text)
            boxes = found.get(at + len(said))
            if not grounded.startswith(said, at) or boxes is None:
                yield "grounded_caption is not the caption with boxes after its phrases"
                return
            if not self._are(boxes.boxes, phrase.boxes):
                yield "grounded_caption gives other boxes than phrases"
            at, end = boxes.end, phrase.end
        if grounded[at:] != safe[end:]:
            yield "grounded_caption is not the caption with boxes after its phrases"

    def refers(self, question: str, answer: str, phrase: _Phrase) -> bool:
        """Whether a phrase is given, and its boxes are the answer."""
        found = self.convention.parse(answer, self.size)
        whole = len(found) == 1 and (found[0].start, found[0].end) == (0, len(answer))
        if not whole or not self._are(found[0].boxes, phrase.boxes):
            return False
        asked = question.removeprefix(prompt(REFER).text.rstrip("."))
        return asked == f": {phrase.text}"

    def describes(self, question: str, answer: str, phrase: _Phrase) -> bool:
        """Whether the one box of a phrase is given, and the phrase is the answer."""
        found = self.convention.parse(question, self.size)
        if len(found) != 1 or answer != phrase.text or len(phrase.boxes) != 1:
            return False
        rest = question[: found[0].start] + question[found[0].end :]
        asked = rest.removeprefix(prompt(DESCRIBE).text.rstrip("."))
        return asked == ": " and self._are(found[0].boxes, phrase.boxes)

    def is_unsafe(self, said: str) -> bool:
        """Whether a text holds a special token or role label that the convention did not write."""
        said = said.removeprefix(_IMAGE)
        if find_special(said) is None:
            return False
        rest, end = "", 0
        for found in self.convention.parse(said, self.size):
            rest, end = rest + said[end : found.start] + _HELD, found.end
        rest += said[end:]
        for tag in filter(str.strip, self.convention.phrase.split("{}")):
            rest = rest.replace(tag, _HELD)
        return find_special(rest) is not None

    def _are(self, read: Sequence[Box], stored: Sequence[Box]) -> bool:
        """Whether boxes that were read are those stored, as near as the convention tells them."""
        return len(read) == len(stored) and all(map(self._is, read, stored))

    def _is(self, read: Box, stored: Box) -> bool:
        for axis in (0, 1):
            steps = self.convention.steps or (self.size or (1, 1))[axis]
            low, high = axis, axis + 2
            # A box thinner than a step is widened to one; patches may be a whole step off.
            is_nearest = self.convention.form.count("{}") == 4
            is_wide = (stored[high] - stored[low]) * steps > 1.001
            most = (0.5 if is_nearest and is_wide else 1) / steps + _ROUNDING
            if max(abs(read[low] - stored[low]), abs(read[high] - stored[high])) > most:
                return False
        return True

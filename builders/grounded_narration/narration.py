"""Captions with their phrases' boxes written into them, and the conversations about them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vila2data.boxes import Convention
from vila2data.conversation import neutralise_all
from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.keyed import Keys, keyed_hash, mixed, uniform
from vila2data.prompts import load_prompts
from vila2data.schema import GROUNDED_NARRATION

from .cuts import Cut, cut
from .phrases import Ints, Phrases
from .recipe import Questions

REFER = "format-locate-region"
DESCRIBE = "format-describe-region"

_HELD = "\ufffc"  # stands for what is not yet written around a phrase

_TYPES = {field.name: field.type for field in GROUNDED_NARRATION.arrow_schema}


@dataclass(frozen=True, slots=True)
class _Talk:
    """Turns of all conversations, one after the other.

    Attributes:
        starts: (rows + 1,), where those of each row begin.
        asked, answered, ids: of the turns.
    """

    starts: NDArray[np.int32]
    asked: pa.StringArray
    answered: pa.StringArray
    ids: pa.StringArray

    def columns(self) -> dict[str, pa.Array]:
        """The columns ``messages`` and ``question_ids``."""
        turns = len(self.asked)
        order = np.arange(2 * turns).reshape(2, turns).T.reshape(-1)
        content = pa.concat_arrays([self.asked, self.answered]).take(pa.array(order))
        roles = pa.array(["user", "assistant"]).take(pa.array(np.arange(2 * turns) % 2))
        messages = pa.StructArray.from_arrays([roles, content], ["role", "content"])
        return {
            "messages": pa.ListArray.from_arrays(pa.array(2 * self.starts), messages),
            "question_ids": pa.ListArray.from_arrays(pa.array(self.starts), self.ids),
        }


def narrated(
    captions: pa.StringArray,
    sizes: Ints,
    keys: Keys,
    phrases: Phrases,
    questions: Questions,
) -> dict[str, pa.Array]:
    """The columns ``phrases``, ``grounded_caption``, ``messages`` and ``question_ids``.

    Args:
        captions: each with at least one phrase.
        sizes: (rows, 2), of the images, in pixels; used only where the convention writes pixels.
        keys: (rows,), what the draws of each row follow from.
        phrases: of the captions.
        questions: what is asked.
    """
    convention = questions.convention
    row_sizes = sizes[phrases.row].tolist() if convention.steps is None else ()
    written = convention.render_groups(phrases.boxes, phrases.box_starts, row_sizes)
    spans = (phrases.row, phrases.start, phrases.end)
    as_they_are = cut(captions, *spans)
    safe = neutralise_all(captions)
    cuts = as_they_are if safe is captions else cut(safe, *spans)
    cuts = _made_safe(cuts, phrases, convention)
    grounded = _grounded(cuts, written, convention)
    talk = _talk(grounded, keys, questions)
    if questions.refer or questions.describe:
        talk = _with_regions(talk, cuts, written.to_pylist(), phrases, keys, questions)
    texts = as_they_are.pieces.take(pa.array(as_they_are.inside))
    return {
        "phrases": _phrase_column(phrases, texts, len(captions)),
        "grounded_caption": grounded,
        **talk.columns(),
    }


def _made_safe(cuts: Cut, phrases: Phrases, convention: Convention) -> Cut:
    """The same, where a token or role label appears once boxes stand in between made inert too."""
    held = pa.array([_HELD]).take(pa.array(np.zeros(len(cuts.row), np.int64)))
    mark = "" if convention.phrase.startswith("{}") else _HELD
    joined = _joined(cuts, mark, held)
    safe = neutralise_all(joined)
    if safe is joined:
        return cuts
    shift = np.arange(len(cuts.row)) - phrases.row_starts(cuts.texts)[cuts.row]
    shift *= 1 + len(mark)
    ends = phrases.end + shift + len(mark) + 1
    found = cut(safe, cuts.row, phrases.start + shift, ends)
    inside = np.zeros(len(found.pieces), np.bool_)
    inside[found.inside] = True
    bare = pc.utf8_slice_codeunits(found.pieces, len(mark), -1)
    return replace(found, pieces=pc.if_else(pa.array(inside), bare, found.pieces))


def _grounded(cuts: Cut, written: pa.StringArray, convention: Convention) -> pa.StringArray:
    """Each caption with every phrase marked and its boxes behind it."""
    mark, _, after = convention.phrase.partition("{}")
    return _joined(cuts, mark, pc.binary_join_element_wise(after, written, ""))


def _joined(cuts: Cut, mark: str, behind: pa.StringArray) -> pa.StringArray:
    """Each text again, with ``mark`` before each span and one of ``behind`` after it."""
    parts = pa.concat_arrays([cuts.pieces, behind, pa.array([mark])])
    spans = np.arange(len(cuts.row))
    order = np.empty(4 * len(spans) + cuts.texts, np.int64)
    at = 4 * spans + cuts.row
    order[at] = cuts.inside - 1
    order[at + 1] = len(parts) - 1
    order[at + 2] = cuts.inside
    order[at + 3] = len(cuts.pieces) + spans
    ends = np.searchsorted(cuts.row, np.arange(cuts.texts), side="right")
    last = 4 * ends + np.arange(cuts.texts)
    order[last] = cuts.last
    starts = pa.array(np.append(0, last + 1), pa.int32())
    lists = pa.ListArray.from_arrays(starts, parts.take(pa.array(order)))
    texts: pa.StringArray = pc.binary_join(lists, "")
    return texts


def _talk(grounded: pa.StringArray, keys: Keys, questions: Questions) -> _Talk:
    """One turn for each row: the narration."""
    prompts = load_prompts()
    shares = {name: share for name, share in sorted(questions.narration.items()) if share > 0}
    names = list(shares)
    bounds = np.cumsum(list(shares.values()))
    points = uniform(mixed(keys, keyed_hash("narration"))) * bounds[-1]
    drawn = np.minimum(np.searchsorted(bounds, points, side="right"), len(names) - 1)
    asked = pa.array([f"{IMAGE_MARKER}\n{prompts[name].text}" for name in names])
    return _Talk(
        starts=np.arange(len(grounded) + 1, dtype=np.int32),
        asked=asked.take(pa.array(drawn)),
        answered=grounded,
        ids=pa.array(names).take(pa.array(drawn)),
    )


def _with_regions(
    talk: _Talk,
    cuts: Cut,
    written: Sequence[str],
    phrases: Phrases,
    keys: Keys,
    questions: Questions,
) -> _Talk:
    """The same with turns about single phrases after each narration."""
    counts = np.diff(phrases.box_starts).tolist()
    draws = mixed(keys[phrases.row], keyed_hash("region"), phrases.start.astype(np.uint64)).tolist()
    refer, describe = (load_prompts()[name].text.rstrip(".") for name in (REFER, DESCRIBE))
    texts = neutralise_all(cuts.pieces.take(pa.array(cuts.inside))).to_pylist()
    starts = phrases.row_starts(cuts.texts).tolist()
    narrations = zip(*(a.to_pylist() for a in (talk.ids, talk.asked, talk.answered)), strict=True)
    turns: list[tuple[str, str, str]] = []
    ends = [0]
    for narration, first, end in zip(narrations, starts, starts[1:], strict=False):
        turns.append(narration)
        drawn = sorted(_askable(texts, first, end), key=lambda place: draws[place])
        for place in drawn[: questions.refer]:
            turns.append((REFER, f"{refer}: {texts[place]}", written[place]))
        single = [place for place in drawn[questions.refer :] if counts[place] == 1]
        for place in single[: questions.describe]:
            turns.append((DESCRIBE, f"{describe}: {written[place]}", texts[place]))
        ends.append(len(turns))
    ids, asked, answered = (pa.array(column, pa.string()) for column in zip(*turns, strict=True))
    return _Talk(np.array(ends, np.int32), asked, answered, ids)


def _askable(texts: Sequence[str], first: int, end: int) -> list[int]:
    """The phrases of a caption that can be told apart by their text, and have one."""
    some = texts[first:end]
    return [
        first + place
        for place, text in enumerate(some)
        if some.count(text) == 1 and any(letter.isalpha() for letter in text)
    ]


def _phrase_column(phrases: Phrases, texts: pa.StringArray, rows: int) -> pa.ListArray:
    kind: Any = _TYPES["phrases"].value_type
    flat = pa.array(phrases.boxes.astype(np.float32).reshape(-1))
    boxes = pa.FixedSizeListArray.from_arrays(flat, 4)
    fields = {
        "text": texts,
        "start": pa.array(phrases.start, pa.int32()),
        "end": pa.array(phrases.end, pa.int32()),
        "boxes": pa.ListArray.from_arrays(pa.array(phrases.box_starts, pa.int32()), boxes),
        "score": _nullable(phrases.score),
    }
    columns = [fields[kind.field(place).name] for place in range(kind.num_fields)]
    structs = pa.StructArray.from_arrays(columns, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(phrases.row_starts(rows), pa.int32()), structs)


def _nullable(values: NDArray[np.float64]) -> pa.Array:
    with np.errstate(over="ignore"):  # what is too large for 32 bits is infinite
        return pa.array(values.astype(np.float32), mask=np.isnan(values))


def row_keys(seed: int, ids: pa.Array, keys: pa.Array) -> Keys:
    """(rows,): what the draws of each row follow from: its id, or its key where it has none."""
    numbers: Ints = ids.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    begun = np.full(len(numbers), keyed_hash(seed, "grounded"), np.uint64)
    found = mixed(begun, numbers.view(np.uint64))
    for place in np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False)).tolist():
        found[place] = keyed_hash(seed, "grounded", str(keys[place].as_py()))
    return found

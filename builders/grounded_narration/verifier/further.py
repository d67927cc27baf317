"""Which rows of several turns say exactly what their phrases say: the usual case, without reading.

What is not exact here is not yet wrong; ``turns`` reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vila2data.prompts import prompt

from ..recipe import Questions
from .phrases import Flags, Ints, Phrases
from .turns import DESCRIBE, REFER

_IMAGE = "<image>\n"


@dataclass(frozen=True)
class Turns:
    """What the turns of a build may be."""

    questions: Questions

    @cached_property
    def _asked(self) -> dict[str, str]:
        names = [name for name, share in self.questions.narration.items() if share]
        first = {name: _IMAGE + prompt(name).text for name in names}
        later = {name: f"{prompt(name).text.rstrip('.')}: " for name in (REFER, DESCRIBE)}
        return {**first, **later}

    def exact(
        self, columns: pa.RecordBatch, phrases: Phrases, boxes: pa.StringArray, rows: Ints
    ) -> Flags:
        """Which of ``rows`` are surely right, where nothing of their captions could be a token.

        Args:
            columns: with messages and question_ids.
            phrases: of all rows.
            boxes: (p,), the text of the boxes of each phrase.
            rows: whose grounded captions are right.
        """
        found = np.zeros(len(rows), dtype=bool)
        if not len(rows):
            return found
        some = columns.take(pa.array(rows))
        messages, told = _listed(some.column("messages"), "role", "content")
        ids, named = _listed(some.column("question_ids"))
        own = np.append(0, np.cumsum(phrases.per_row))
        answers = some.column("grounded_caption").to_pylist()
        texts, written = phrases.texts.fill_null("").to_pylist(), boxes.to_pylist()
        counts = phrases.counts.tolist()
        for n, row in enumerate(rows.tolist()):
            of, at = slice(messages[n], messages[n + 1]), slice(own[row], own[row + 1])
            names = named[0][ids[n] : ids[n + 1]]
            if told[0][of] != ["user", "assistant"] * len(names) or not names:
                continue
            said = told[1][of]
            is_first = said[:2] == [self._asked.get(names[0]), answers[n]]
            found[n] = is_first and self._are_further(
                names[1:], said[2:], list(zip(texts[at], written[at], counts[at], strict=True))
            )
        return found

    def _are_further(
        self,
        names: Sequence[str],
        said: Sequence[str],
        phrases: Sequence[tuple[str, str, int]],
    ) -> bool:
        about = {(REFER, self._asked[REFER] + text, boxes): text for text, boxes, _ in phrases}
        for text, boxes, count in phrases:
            if count == 1:
                about[DESCRIBE, self._asked[DESCRIBE] + boxes, text] = text
        found = [about.get(turn) for turn in zip(names, said[::2], said[1::2], strict=True)]
        texts = [text for text, _, _ in phrases]
        return (
            len(set(found)) == len(found)
            and all(t and texts.count(t) == 1 and any(map(str.isalpha, t)) for t in found)
            and list(names) == sorted(names, reverse=True)
            and names.count(REFER) <= self.questions.refer
            and names.count(DESCRIBE) <= self.questions.describe
        )


def _listed(lists: pa.ListArray, *fields: str) -> tuple[list[int], list[list[str]]]:
    """Where the entries of each list begin among all, and one more; all entries, by field."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    entries = lists.flatten()
    values = dict(zip(entries.type.names, entries.flatten(), strict=True)) if fields else {}
    parts = [values[name] for name in fields] if fields else [entries]
    return np.append(0, np.cumsum(lengths)).tolist(), [part.to_pylist() for part in parts]

"""The text of the questions that were chosen, and the rows that they make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vila2data.boxes import CONVENTIONS
from vila2data.schema import SPATIAL_RELATION_QA_PATHS

from .batch import Ints
from .names import CAMERA, FORMS, RELATIONS, SIDES
from .recipe import Questions as QuestionRules
from .recipe import Semantics
from .selection import Asked
from .stored import StoredScenes
from .templates import Template, templates

IMAGE = "<image>\n"

_FAMILIES = [name.partition(".")[0] for name in RELATIONS]
_NAMES = [name.partition(".")[2] for name in RELATIONS]
_YES_NO = FORMS.index("yes_no")
_IS_SIDE = np.array([name in SIDES for name in _NAMES])


class _Pair(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str
    template_id: str


@dataclass(frozen=True, slots=True)
class _Candidates:
    """All boxes of the class that is asked for, but the anchor; those of question q lie in ``box``
    from ``offsets[q]`` to ``offsets[q + 1]``.
    """

    box: Ints
    offsets: Ints

    @classmethod
    def of(cls, scenes: StoredScenes, asked: Asked) -> "_Candidates":
        starts = scenes.class_starts()
        asked_class = np.searchsorted(starts, asked.questions.target, side="right")
        low, high = starts[asked_class - 1], starts[asked_class]
        whole = high - low
        begins = np.cumsum(whole) - whole
        box = np.arange(int(whole.sum())) + np.repeat(low - begins, whole)
        others = box != np.repeat(asked.questions.anchor, whole)
        question = np.repeat(np.arange(len(whole)), whole)[others]
        counts = np.bincount(question, minlength=len(whole))
        return cls(box[others], np.concatenate([[0], np.cumsum(counts)]))

    def of_question(self, number: int) -> list[int]:
        boxes: list[int] = self.box[self.offsets[number] : self.offsets[number + 1]].tolist()
        return boxes

    def column(self, begins: Ints) -> pa.ListArray:
        """As they are stored, counted from where their scene begins."""
        own = self.box - np.repeat(begins, np.diff(self.offsets))
        offsets = pa.array(self.offsets, pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(own, pa.int32()))


def conversations(
    scenes: StoredScenes,
    asked: Asked,
    source: str,
    rules: QuestionRules,
    semantics: Semantics,
) -> pa.Table:
    """A row for each scene of which something is asked, with ``image_path`` for its image."""
    counts = np.bincount(asked.questions.scene, minlength=len(scenes.ids))
    used = np.flatnonzero(counts)
    first = np.concatenate([[0], np.cumsum(counts[used])])
    candidates = _Candidates.of(scenes, asked)
    pairs = list(_pairs(scenes, asked, candidates, rules, semantics))
    sided = np.bincount(asked.questions.scene, _IS_SIDE[asked.questions.relation], len(counts))
    columns = {
        **{name: array.take(pa.array(used)) for name, array in scenes.identity().items()},
        "source": pa.array([source] * len(used), pa.string()),
        "relations": _relations(scenes, asked, candidates, pairs, first),
        "messages": _messages(pairs, first),
        "flip_safe": pa.array(sided[used] == 0),
    }
    schema = SPATIAL_RELATION_QA_PATHS.arrow_schema.remove_metadata()
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema)


def _pairs(
    scenes: StoredScenes,
    asked: Asked,
    candidates: _Candidates,
    rules: QuestionRules,
    semantics: Semantics,
) -> Iterator[_Pair]:
    """The questions in words."""
    boxes = _written(scenes, asked, rules)
    with_box = semantics.anchors == "box"
    questions = asked.questions
    several = (np.diff(candidates.offsets) > 1).tolist()
    for number, (relation, form, anchor, target, template_key, named_key) in enumerate(
        zip(
            questions.relation.tolist(),
            asked.form.tolist(),
            questions.anchor.tolist(),
            questions.target.tolist(),
            asked.template.tolist(),
            asked.named.tolist(),
            strict=True,
        )
    ):
        choices = _templates(relation, form, several[number])
        template = choices[template_key % len(choices)]
        named = target
        names_box = form == _YES_NO
        if names_box and named_key % 2:
            others = candidates.of_question(number)
            rivals = [box for box in others if box != target and scenes.clear[box]]
            named = rivals[(named_key >> 1) % len(rivals)]
        around = anchor != CAMERA
        names = scenes.category[target], scenes.category[anchor] if around else None
        anchor_box = boxes[anchor] if around and with_box else None
        yield _Pair(
            template.ask(*names, anchor_box, boxes[named] if names_box else None),
            # Where both are of one class, the anchor's box tells them apart; else the target's is
            # the one box of an answer.
            template.reply(
                *names,
                anchor_box if names[0] == names[1] else None,
                box=boxes[target],
                holds=named == target,
            ),
            template.id,
        )


@cache
def _templates(relation: int, form: int, several: bool) -> Sequence[Template]:
    """What a question is drawn from; "among the chairs" is not said of one."""
    found = templates(_FAMILIES[relation], _NAMES[relation], FORMS[form])
    return [t for t in found if several or "{targets}" not in t.question]


def _written(scenes: StoredScenes, asked: Asked, rules: QuestionRules) -> dict[int, str]:
    """The text of each box that a question may name."""
    questions = asked.questions
    rivals = np.flatnonzero(scenes.clear if rules.forms["yes_no"] else scenes.clear[:0])
    places = np.unique(np.concatenate([questions.anchor, questions.target, rivals]))
    places = places[places != CAMERA]
    scene = np.searchsorted(scenes.starts, places, side="right") - 1
    sizes = scenes.sizes_px[scene].tolist()
    texts = CONVENTIONS[rules.boxes].render_each(scenes.bbox[places], sizes)
    return dict(zip(places.tolist(), texts, strict=True))


def _relations(
    scenes: StoredScenes,
    asked: Asked,
    candidates: _Candidates,
    pairs: Sequence[_Pair],
    first: Ints,
) -> pa.ListArray:
    """The column ``relations``; boxes are counted from the start of their scene."""
    questions = asked.questions
    begins = scenes.starts[questions.scene]
    columns = {
        "relation": pa.array([_NAMES[r] for r in questions.relation.tolist()], pa.string()),
        "family": pa.array([_FAMILIES[r] for r in questions.relation.tolist()], pa.string()),
        "anchor": pa.array(
            np.where(questions.anchor == CAMERA, CAMERA, questions.anchor - begins), pa.int32()
        ),
        "target": pa.array(questions.target - begins, pa.int32()),
        "candidates": candidates.column(begins),
        "gap": pa.array(questions.gap_m.astype(np.float32)),
        "template_id": pa.array([pair.template_id for pair in pairs], pa.string()),
    }
    structs = pa.StructArray.from_arrays(list(columns.values()), list(columns))
    return pa.ListArray.from_arrays(pa.array(first, pa.int32()), structs)


def _messages(pairs: Sequence[_Pair], first: Ints) -> pa.ListArray:
    """The column ``messages``; the image stands before the first question."""
    begins = set(first.tolist())
    content = []
    for number, pair in enumerate(pairs):
        content += [IMAGE + pair.question if number in begins else pair.question, pair.answer]
    structs = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * len(pairs), pa.string()), pa.array(content, pa.string())],
        ["role", "content"],
    )
    return pa.ListArray.from_arrays(pa.array(2 * first, pa.int32()), structs)

"""Which of the possible questions are asked, in which order and form.

Every draw is keyed by the scene and by what the question is about, never by where a box stands in a
list; and by nothing that mirroring the scene changes, so that a scene and its mirror image ask the
same, but for left and right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila2data.cuboids import Floats
from vila2data.keyed import Keys, keyed_hash, mixed, uniform

from .batch import Bools, Ints
from .candidates import Geometry
from .names import FORMS, RELATIONS, SIDES
from .recipe import Questions as QuestionRules
from .semantics import Questions

_RELATION, _FORM, _TEMPLATE, _TURN, _NAMED = range(1, 6)  # what a draw is for

_MIRRORED = np.array(
    [
        min(RELATIONS.index(r), RELATIONS.index(r.replace("right", "left")))
        if r.partition(".")[2] in SIDES
        else n
        for n, r in enumerate(RELATIONS)
    ]
)
"""(11,), the same number for a relation and its mirror image."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of all conversations, in order; (q,) each.

    Attributes:
        questions: what they are about.
        form: place in ``FORMS``.
        template: a number to choose the template by.
        named: a number to choose the box by that a yes-or-no question is about, even for the answer
            "yes".
    """

    questions: Questions
    form: Ints
    template: Keys
    named: Keys


def box_keys(names: Sequence[str], center: Floats, dimensions: Floats) -> Keys:
    """What each box is, as a key; the same for its mirror image, (n,)."""
    classes = {name: keyed_hash(name) for name in set(names)}
    keys = np.array([classes[name] for name in names], np.uint64)
    shape = np.concatenate([np.abs(center[:, :1]), center[:, 1:], dimensions], axis=1)
    bits = np.ascontiguousarray(shape, np.float32).view(np.uint32).astype(np.uint64)
    return mixed(keys, *bits.T)


def select(
    questions: Questions,
    geometry: Geometry,
    scene_keys: Keys,
    boxes: Keys,
    rules: QuestionRules,
) -> Asked:
    """Draws the questions of each scene.

    Relations take turns, each as often as its share of the balance says, as far as a scene has
    questions of it.

    Args:
        questions: all that may be asked.
        geometry: of the scenes.
        scene_keys: (s,).
        boxes: (n,), see ``box_keys``.
        rules: how many are asked, and what of.
    """
    anchor = np.where(questions.anchor < 0, np.uint64(0), boxes[questions.anchor])
    scene = scene_keys[questions.scene]
    mirrored = _MIRRORED[questions.relation].astype(np.uint64)
    keys = mixed(scene, mirrored, anchor, boxes[questions.target])
    rival = has_rival(questions, geometry)
    weight = np.array([rules.balance[name] for name in RELATIONS])[questions.relation]
    possible = (weight > 0) & (rival | (rules.forms["box"] + rules.forms["phrase"] > 0))
    rank = _rank(keys, questions, possible)
    chosen = np.flatnonzero(possible & (rank < rules.per_image))
    lead = uniform(mixed(scene[chosen], mirrored[chosen], _RELATION))
    turn = (rank[chosen] + lead) / weight[chosen]
    chosen = chosen[np.lexsort((keys[chosen], turn, questions.scene[chosen]))]
    chosen = chosen[_place(questions.scene[chosen]) < rules.per_image]
    chosen = chosen[np.lexsort((mixed(keys[chosen], _TURN), questions.scene[chosen]))]
    return Asked(
        questions=Questions(
            *(
                getattr(questions, name)[chosen]
                for name in ("scene", "anchor", "target", "relation", "gap_m")
            )
        ),
        form=_forms(keys[chosen], rival[chosen], rules),
        template=mixed(keys[chosen], _TEMPLATE),
        named=mixed(keys[chosen], _NAMED),
    )


def has_rival(questions: Questions, geometry: Geometry) -> Bools:
    """Whether a clear box beside the target is a candidate: without one, "no" cannot be said."""
    clear = np.bincount(geometry.group, geometry.clear)
    own = geometry.group[questions.target]
    taken = (questions.anchor >= 0) & (geometry.group[questions.anchor] == own)
    rivals: Bools = clear[own] - 1 - taken > 0
    return rivals


def _forms(keys: Keys, rival: Bools, rules: QuestionRules) -> Ints:
    """The form of each question."""
    weights = np.tile([rules.forms[form] for form in FORMS], (len(keys), 1))
    weights[~rival, FORMS.index("yes_no")] = 0.0
    point = uniform(mixed(keys, _FORM)) * weights.sum(axis=1)
    form: Ints = (point[:, None] >= np.cumsum(weights, axis=1)).sum(axis=1)
    return np.minimum(form, len(FORMS) - 1)


def _rank(keys: Keys, questions: Questions, possible: Bools) -> Ints:
    """The place of each possible question among those of its scene and relation, by key."""
    rank = np.zeros(len(keys), np.int64)
    places = np.flatnonzero(possible)
    group = questions.scene[places] * len(RELATIONS) + questions.relation[places]
    order = np.lexsort((keys[places], group))
    rank[places[order]] = _place(group[order])
    return rank


def _place(group: Ints) -> Ints:
    """The place of each item in its run of equal numbers."""
    if not len(group):
        return np.zeros(0, np.int64)
    begins = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    counts = np.diff(np.append(begins, len(group)))
    return np.arange(len(group)) - np.repeat(begins, counts)

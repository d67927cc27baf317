"""Figures of captions, held against what their scenes hold."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vila2data.stats.signals import signals_of

from .claims import ClaimReader, Claims
from .figures import NOTHING, Figure, ratio, spread
from .scenes import Scene, Thing, Vocabulary

Tally = Mapping[str, tuple[int, int]]
"""Of each figure, how much of what was counted holds, and how much was counted."""

_HOLDS: dict[str, Callable[[Thing, Thing], bool]] = {
    "left": lambda a, b: a.center[0] / a.center[2] < b.center[0] / b.center[2],
    "right": lambda a, b: a.center[0] / a.center[2] > b.center[0] / b.center[2],
    "front": lambda a, b: a.center[2] < b.center[2],
    "behind": lambda a, b: a.center[2] > b.center[2],
}


def shifted(count: int) -> list[int]:
    """For each of ``count`` scenes another one: the next."""
    return [(number + 1) % count for number in range(count)]


def caption_figures(
    captions: Sequence[str], scenes: Sequence[Scene], vocabulary: Vocabulary
) -> dict[str, Figure]:
    """The figures of captions; ``blind_*`` are those of another scene's caption.

    Args:
        captions: one for each scene.
        scenes: at least two.
        vocabulary: of their build.
    """
    reader = ClaimReader(vocabulary)
    claims = [reader.read(caption) for caption in captions]
    others = [claims[other] for other in shifted(len(claims))]
    words = [signals_of(caption).num_words for caption in captions]
    return {
        "words": ratio((count, 1) for count in words),
        "words_deviation": spread(words),
        **_pooled(claims, scenes),
        "unique_captions": _unique(captions),
        **{f"blind_{name}": figure for name, figure in _pooled(others, scenes).items()},
    }


def _pooled(claims: Sequence[Claims], scenes: Sequence[Scene]) -> dict[str, Figure]:
    tallies = [tally(told, scene) for told, scene in zip(claims, scenes, strict=True)]
    return {name: ratio(one[name] for one in tallies) for name in tallies[0]} if tallies else {}


def tally(claims: Claims, scene: Scene) -> Tally:
    """What a caption has right of a scene. Attributes, sides and relations are held against the
    truth where their objects are there: an object that is not is counted once, as an object.
    """
    things = {thing.pair: thing for thing in scene.things}
    named = claims.objects
    attributes = [
        getattr(things[pair], kind) == word
        for pair, kind, word in claims.attributes
        if pair in things
    ]
    sides = [things[pair].side == side for pair, side in claims.sides if pair in things]
    relations = [
        _HOLDS[relation](things[first], things[second])
        for first, relation, second in claims.relations
        if first in things and second in things
    ]
    return {
        "object_precision": (len(named & things.keys()), len(named)),
        "object_recall": (len(named & things.keys()), len(things)),
        "hallucinated_share": (int(bool(named - things.keys())), 1),
        "attribute_accuracy": (sum(attributes), len(attributes)),
        "side_accuracy": (sum(sides), len(sides)),
        "said_relation_accuracy": (sum(relations), len(relations)),
        "floor_accuracy": (int(scene.floor in claims.floors), len(claims.floors)),
        "wall_accuracy": (int(scene.wall in claims.walls), len(claims.walls)),
        "count_accuracy": (int(len(scene.things) in claims.counts), len(claims.counts)),
    }


def _unique(captions: Sequence[str]) -> Figure:
    """The share of different captions; its error is the jackknife's, which leaves each scene out
    once: a caption is missed where it stands alone.
    """
    if not captions:
        return NOTHING
    counts = Counter(captions)
    alone = ratio((int(counts[caption] == 1), 1) for caption in captions)
    return Figure(len(counts) / len(captions), alone.standard_error, len(captions))

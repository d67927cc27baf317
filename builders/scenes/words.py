"""What is said of a scene: alt-texts as the web has them, true descriptions, questions.

Every text is a pure function of the scene's facts and a generator that the caller keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import hypot
from typing import TypeVar

import numpy as np

from vila2data.boxes import CONVENTIONS, Box

from .world import COLORS, FLOORS, MATERIALS, SHAPES, SIZES

Rng = np.random.Generator
T = TypeVar("T")

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EVERYWHERE = ("existence", "count", "size", "material", "floor")  # asked of every scene
KINDS = (*EVERYWHERE, "color", "shape", "side", "depth")
SIDE_MARGIN, DEPTH_MARGIN_M = 0.08, 0.5  # of x/z; of z, and of the distance from the camera
_WRONG = 0.15  # of each attribute in an alt-text
_JUNK = 0.05
_BEFORE = (
    *(
        "Stock photo of",
        "Free download",
        "Best price",
        "HD wallpaper",
        "Buy now",
        "New 3D render of",
    ),
    *("Photo by user", "Top ten", "Shop online for", "Vintage", "Set of", "How to draw"),
)
_AFTER = (
    *(
        "for sale",
        "royalty free vector",
        "with free shipping",
        "isolated on background",
        "- Image 88",
    ),
    *(
        "| Home Decor",
        "high quality print",
        "2019",
        "- Pinterest",
        "wall art",
        "clipart",
        "at the shop",
    ),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """What the texts may say of one object.

    Attributes:
        center: metres, camera frame.
        bbox: xyxy in 0-1.
    """

    shape: str
    color: str
    size: str
    material: str
    center: tuple[float, float, float]
    bbox: Box

    @property
    def side(self) -> float:
        """What sides are compared by."""
        return self.center[0] / self.center[2]

    @property
    def depth_m(self) -> float:
        """What "in front of" and "behind" are compared by."""
        return self.center[2]

    @property
    def distance_m(self) -> float:
        """What is closest to the camera is found by."""
        return hypot(*self.center)

    @property
    def name(self) -> str:
        """What tells it from every other object of its scene."""
        return f"{self.color} {self.shape}"

    @property
    def looks(self) -> str:
        """What its name does not say."""
        return f"{self.size} and {self.material}"

    @property
    def where(self) -> str:
        """Its third of the image."""
        middle = (self.bbox[0] + self.bbox[2]) / 2
        thirds = ("on the left", "in the middle", "on the right")
        return thirds[min(int(middle * 3), 2)]


@dataclass(frozen=True, slots=True)
class Facts:
    """A scene in words; its objects from left to right."""

    things: Sequence[Fact]
    floor: str
    wall: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer; ``kind`` is one of ``KINDS``."""

    question: str
    answer: str
    kind: str


def alt_text(facts: Facts, rng: Rng) -> str:
    """Text of the kind that images are found with: short, partial, now and then wrong, or junk."""
    before, after = _one(_BEFORE, rng), _one(_AFTER, rng)
    if rng.random() < _JUNK:
        return f"IMG_{rng.integers(10_000):04d}.jpg {after}"
    count = 1 if rng.random() < 0.4 else 2
    named = [facts.things[n] for n in rng.permutation(len(facts.things))[:count]]
    text = " and ".join(_misnamed(thing, rng) for thing in named)
    if rng.random() < 0.2:
        text += f" on a {_maybe_wrong(facts.floor, FLOORS, rng)} floor"
    text = f"{before} {text}" if rng.random() < 0.6 else _sentence(text)
    return f"{text} {after}" if rng.random() < 0.6 else text


def _misnamed(thing: Fact, rng: Rng) -> str:
    color, shape = _maybe_wrong(thing.color, COLORS, rng), _maybe_wrong(thing.shape, SHAPES, rng)
    form = rng.random()
    name = f"{color} {shape}" if form < 0.75 else shape if form < 0.9 else f"{color} object"
    if rng.random() < 0.3:
        name = f"{_maybe_wrong(thing.material, MATERIALS, rng)} {name}"
    if rng.random() < 0.3:
        name = f"{_maybe_wrong(thing.size, SIZES, rng)} {name}"
    return f"{_article(name)} {name}"


def _maybe_wrong(value: str, values: Sequence[str], rng: Rng) -> str:
    return _one([v for v in values if v != value], rng) if rng.random() < _WRONG else value


def located_reference(facts: Facts) -> str:
    """All objects from left to right, by colour and shape, each with its box."""
    boxes = CONVENTIONS["norm2"]
    return ", ".join(f"{thing.name} {boxes.render(thing.bbox)}" for thing in facts.things) + "."


def detailed_reference(facts: Facts, rng: Rng) -> str:
    """Number, floor and wall; each object from left to right with all that is known of it; one
    relation; the nearest object. All of it is true.
    """
    sentences = [_opening(facts, rng)]
    for thing in facts.things:
        place, looks = thing.where, thing.looks
        name = f"{_article(thing.name)} {thing.name}"
        sentences.append(
            _one(
                (
                    f"{_sentence(place)} there is {name}, {looks}.",
                    f"{_sentence(name)}, {looks}, stands {place}.",
                    f"{_sentence(name)} that is {looks} can be seen {place}.",
                ),
                rng,
            )
        )
    pairs = list(permutations(facts.things, 2))
    for number in rng.permutation(len(pairs)):
        first, second = pairs[number]
        told = [r for r in (_side(first, second), _depth(first, second)) if r]
        if told:
            sentences.append(f"The {first.name} is {_one(told, rng)} the {second.name}.")
            break
    nearest, *others = sorted(facts.things, key=lambda thing: thing.distance_m)
    if others and others[0].distance_m - nearest.distance_m >= DEPTH_MARGIN_M:
        sentences.append(f"The {nearest.name} is closest to the camera.")
    return " ".join(sentences)


def spatial_reference(facts: Facts, rng: Rng) -> str:
    """Number, floor and wall; the objects from left to right; then the relations of each two that
    stand side by side, in either order. All of it is true.

    The objects come first so that a model has named what is there before it compares any two.
    """
    names = [f"{_article(thing.name)} {thing.name}" for thing in facts.things]
    listed = f"From left to right there are {', '.join(names[:-1])} and {names[-1]}."
    sentences = [_opening(facts, rng), listed]
    for pair in pairwise(facts.things):
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        relations = (_side(first, second), _depth(first, second))
        sentences += [f"The {first.name} is {r} the {second.name}." for r in relations if r]
    return " ".join(sentences)


def _opening(facts: Facts, rng: Rng) -> str:
    count, floor, wall = NUMBERS[len(facts.things)], facts.floor, facts.wall
    return _one(
        (
            f"The image shows {count} objects on a {floor} floor in front of a {wall} wall.",
            f"There are {count} objects on a {floor} floor, with a {wall} wall behind them.",
        ),
        rng,
    )


def _side(first: Fact, second: Fact) -> str | None:
    if abs(first.side - second.side) < SIDE_MARGIN:
        return None
    return "to the left of" if first.side < second.side else "to the right of"


def _depth(first: Fact, second: Fact) -> str | None:
    if abs(first.depth_m - second.depth_m) < DEPTH_MARGIN_M:
        return None
    return "in front of" if first.depth_m < second.depth_m else "behind"


def questions(facts: Facts, rng: Rng) -> list[Question]:
    """One question of each kind that the scene allows, of existence two; in an order drawn."""
    found = [question for ask in _ASKED for question in ask(facts, rng)]
    return [found[n] for n in rng.permutation(len(found))]


def _existence(facts: Facts, rng: Rng) -> list[Question]:
    """One that is there; and one that is not, of a colour or a shape that is."""
    present = _one(facts.things, rng)
    names = {thing.name for thing in facts.things}
    near = [f"{present.color} {shape}" for shape in SHAPES]
    near += [f"{color} {present.shape}" for color in COLORS]
    absent = _one([name for name in near if name not in names], rng)
    pairs = [(present.name, "yes"), (absent, "no")]
    return [
        Question(f"Is there {_article(name)} {name} in the image?", answer, "existence")
        for name, answer in pairs
    ]


def _count(facts: Facts, rng: Rng) -> list[Question]:
    return [Question("How many objects are there?", NUMBERS[len(facts.things)], "count")]


def _color(facts: Facts, rng: Rng) -> list[Question]:
    alone = [t for t in facts.things if [o.shape for o in facts.things].count(t.shape) == 1]
    if not alone:
        return []
    thing = _one(alone, rng)
    return [Question(f"What color is the {thing.shape}?", thing.color, "color")]


def _shape(facts: Facts, rng: Rng) -> list[Question]:
    alone = [t for t in facts.things if [o.color for o in facts.things].count(t.color) == 1]
    if not alone:
        return []
    thing = _one(alone, rng)
    return [Question(f"What shape is the {thing.color} object?", thing.shape, "shape")]


def _size(facts: Facts, rng: Rng) -> list[Question]:
    thing, (a, b) = _one(facts.things, rng), _shuffled(SIZES, rng)
    return [Question(f"Is the {thing.name} {a} or {b}?", thing.size, "size")]


def _material(facts: Facts, rng: Rng) -> list[Question]:
    thing, (a, b) = _one(facts.things, rng), _shuffled(MATERIALS, rng)
    return [Question(f"Is the {thing.name} {a} or {b}?", thing.material, "material")]


def _floor(facts: Facts, rng: Rng) -> list[Question]:
    return [Question("What is the floor like?", facts.floor, "floor")]


def _of_a_pair(
    facts: Facts,
    rng: Rng,
    relation: Callable[[Fact, Fact], str | None],
    options: Sequence[tuple[str, str]],
    kind: str,
) -> list[Question]:
    """One question of a pair of which the relation holds by a margin; both orders as likely."""
    pairs = [pair for pair in permutations(facts.things, 2) if relation(*pair)]
    if not pairs:
        return []
    first, second = _one(pairs, rng)
    answers = dict(options)
    a, b = _shuffled(list(answers), rng)
    text = f"Is the {first.name} {a} or {b} the {second.name}?"
    return [Question(text, answers[str(relation(first, second))], kind)]


def _sides(facts: Facts, rng: Rng) -> list[Question]:
    options = (("to the left of", "left"), ("to the right of", "right"))
    return _of_a_pair(facts, rng, _side, options, "side")


def _depths(facts: Facts, rng: Rng) -> list[Question]:
    options = (("in front of", "in front"), ("behind", "behind"))
    return _of_a_pair(facts, rng, _depth, options, "depth")


_ASKED = (_existence, _count, _color, _shape, _size, _material, _floor, _sides, _depths)


def _one(values: Sequence[T], rng: Rng) -> T:
    return values[int(rng.integers(len(values)))]


def _shuffled(values: Sequence[T], rng: Rng) -> list[T]:
    return [values[n] for n in rng.permutation(len(values))]


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]

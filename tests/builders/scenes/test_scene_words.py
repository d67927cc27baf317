import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scene_builds import drawn_facts

from vila2data.builders.scenes.verifier.answers import question_problems
from vila2data.builders.scenes.verifier.rows import Row, Thing
from vila2data.builders.scenes.verifier.sentences import (
    detailed_problems,
    located_problems,
    spatial_problems,
)
from vila2data.builders.scenes.words import (
    KINDS,
    Fact,
    Facts,
    alt_text,
    detailed_reference,
    located_reference,
    questions,
    spatial_reference,
)
from vila2data.builders.scenes.world import COLORS, SHAPES
from vila2data.training.nano.texts import Named, listed

CUBE = Fact("cube", "red", "small", "matte", (-1.5, 0.0, 5.0), (0.05, 0.4, 0.25, 0.6))
BALL = Fact("ball", "orange", "large", "shiny", (0.0, 0.0, 4.0), (0.4, 0.4, 0.6, 0.6))
RING = Fact("ring", "red", "small", "shiny", (0.22, 0.0, 4.4), (0.6, 0.4, 0.8, 0.6))
SCENE = Facts([CUBE, BALL, RING], "wooden", "striped")
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(2, 5)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def row_of(facts: Facts, asked: Sequence[tuple[str, str, str]] = ()) -> Row:
    """The scene as the verifier would read it from a table."""
    things = []
    for fact in facts.things:
        words = (fact.shape, fact.color, fact.size, fact.material)
        things.append(
            Thing(fact.shape, fact.bbox, list(fact.center), [1.0] * 3, [1.0] * 9, *words, 1.0)
        )
    size = (32, 32)
    return Row(
        "k", "h", size, [1.0] * 9, things, facts.floor, facts.wall, "a", None, list(asked), None
    )


def test_texts_of_a_scene_are_these() -> None:
    assert located_reference(SCENE) == (
        "red cube [0.05, 0.40, 0.25, 0.60], orange ball [0.40, 0.40, 0.60, 0.60], "
        "red ring [0.60, 0.40, 0.80, 0.60]."
    )
    assert detailed_reference(SCENE, rng(1)) == (
        "The image shows three objects on a wooden floor in front of a striped wall. "
        "A red cube, small and matte, stands on the left. An orange ball that is large and shiny "
        "can be seen in the middle. A red ring that is small and shiny can be seen on the right. "
        "The red cube is behind the orange ball."
    )


def test_thirds_are_of_the_middle_of_the_box() -> None:
    assert [fact.where for fact in SCENE.things] == ["on the left", "in the middle", "on the right"]
    at_the_edge = Fact("cube", "red", "small", "matte", (0, 0, 5), (0.9, 0.0, 1.0, 1.0))
    assert at_the_edge.where == "on the right"


def test_what_is_asked_of_a_scene_is_of_every_kind_it_allows() -> None:
    found = questions(SCENE, rng(3))
    kinds = Counter(question.kind for question in found)
    assert kinds == Counter({kind: 2 if kind == "existence" else 1 for kind in KINDS})
    told = {q.kind: (q.question, q.answer) for q in found if q.kind != "existence"}
    assert told["count"] == ("How many objects are there?", "three")
    assert told["floor"] == ("What is the floor like?", "wooden")
    # two objects are red, so the shape of "the red object" is never asked for
    assert told["shape"] == ("What shape is the orange object?", "ball")


def test_nothing_is_asked_or_said_where_a_margin_is_not_met() -> None:
    near = [
        Fact("cube", "red", "small", "matte", (0.0, 0.0, 5.0), (0.4, 0.4, 0.5, 0.6)),
        Fact("cube", "blue", "small", "matte", (0.378, 0.0, 5.4), (0.5, 0.4, 0.6, 0.6)),
    ]
    facts = Facts(near, "gray", "white")
    assert {"side", "depth", "color"}.isdisjoint(q.kind for q in questions(facts, rng()))
    assert len(detailed_reference(facts, rng()).split(". ")) == 3


@given(seeds, counts, seeds)
@settings(max_examples=60, deadline=None)
def test_a_reader_finds_every_text_of_any_scene_true(scene: int, count: int, draw: int) -> None:
    facts = drawn_facts(scene, count)
    asked = [(q.question, q.answer, q.kind) for q in questions(facts, rng(draw))]
    row = row_of(facts, asked)
    assert list(question_problems(row, None)) == []
    assert list(detailed_problems(row, detailed_reference(facts, rng(draw)))) == []
    assert list(located_problems(row, located_reference(facts))) == []
    assert list(spatial_problems(row, spatial_reference(facts, rng(draw)))) == []


@given(seeds, seeds)
@settings(max_examples=40, deadline=None)
def test_a_reader_finds_what_is_wrong_with_relations(scene: int, draw: int) -> None:
    facts = drawn_facts(scene, 4)
    text = spatial_reference(facts, rng(draw))
    opening, listed, *told = re.split(r"(?<=\.) ", text)
    assume(told)
    opposite = {"left": "right", "right": "left", "in front of": "behind", "behind": "in front of"}
    turned = re.sub("|".join(opposite), lambda match: opposite[match[0]], told[0])
    row = row_of(facts)

    def rules(*sentences: str, listed: str = listed) -> list[str]:
        return list(spatial_problems(row, " ".join((opening, listed, *sentences))))

    swapped = re.sub(r"(an? \w+ \w+) and (an? \w+ \w+)", r"\2 and \1", listed)
    for wrong in (
        swapped,
        listed.replace(" and ", ", ", 1).replace("there are", "there are a red box,"),
    ):
        assert "a reference does not name the objects from left to right" in rules(
            *told, listed=wrong
        )
    unlisted = rules(*told, listed="Many things are there.")
    assert "a reference's list of objects cannot be read" in unlisted
    assert "a reference is wrong about a relation" in rules(turned, *told[1:])
    others = "a reference tells relations that are not of neighbours, or not in their order"
    assert others in rules(*told, told[0])
    assert "a reference leaves a relation of neighbours out" in rules(*told[1:])
    unread = rules("Nothing is near.", *told[1:])
    assert "a reference's sentence about a relation cannot be read" in unread


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("red cube [", "red ball [", "does not name the objects from left to right"),
        ("0.05", "0.06", "has a box that is not the object's"),
        ("0.05", "0.5", "is no list of names and boxes"),
        ("].", "]", "is no list of names and boxes"),
        (", orange", " and orange", "is no list of names and boxes"),
    ],
)
def test_a_reader_finds_what_is_wrong_with_a_list(old: str, new: str, rule: str) -> None:
    text = located_reference(SCENE)
    assert text.count(old) >= 1
    found = list(located_problems(row_of(SCENE), text.replace(old, new, 1)))
    assert found == [f"a reference {rule}"]


def test_lists_are_written_as_the_foundation_writes_them() -> None:
    things = [Named(thing.name, thing.bbox, thing.depth_m) for thing in SCENE.things]
    pieces = listed(list(reversed(things)))
    assert "".join(piece.text for piece in pieces) == located_reference(SCENE)


@given(seeds, counts, seeds)
@settings(max_examples=40, deadline=None)
def test_texts_are_functions_of_scene_and_key_alone(scene: int, count: int, draw: int) -> None:
    facts = drawn_facts(scene, count)
    for write in (alt_text, detailed_reference, questions):
        assert write(facts, rng(draw)) == write(drawn_facts(scene, count), rng(draw))


@given(seeds, counts, seeds)
@settings(max_examples=40, deadline=None)
def test_texts_are_one_line_of_printable_ascii(scene: int, count: int, draw: int) -> None:
    facts = drawn_facts(scene, count)
    texts = [alt_text(facts, rng(draw)), detailed_reference(facts, rng(draw))]
    for text in (*texts, located_reference(facts)):
        assert text.isascii()
        assert text.isprintable()
        assert text == " ".join(text.split())


def test_lengths_are_those_of_the_web_and_of_long_captions() -> None:
    scenes = [drawn_facts(n, 2 + n % 4) for n in range(600)]
    alt_words = [len(alt_text(facts, rng(n)).split()) for n, facts in enumerate(scenes)]
    long_words = [len(detailed_reference(f, rng(n)).split()) for n, f in enumerate(scenes)]
    assert 8 < np.mean(alt_words) < 12
    assert np.percentile(alt_words, 99) <= 18
    assert 50 < np.mean(long_words) < 75
    assert min(long_words) > 30


def test_alt_texts_are_wrong_about_as_often_as_they_should_be() -> None:
    """Names of two parts where neither is wrong: 0.85 squared, but for pairs that are there by
    chance.
    """
    named = right = junk = 0
    for n in range(1200):
        facts = drawn_facts(n, 3)
        words = alt_text(facts, rng(n)).lower().split()
        junk += any(word.startswith("img_") for word in words)
        pairs = [(a, b) for a, b in pairwise(words) if a in COLORS]
        for color, shape in pairs:
            if shape in SHAPES:
                named += 1
                right += f"{color} {shape}" in {thing.name for thing in facts.things}
    assert right / named == pytest.approx(0.85**2 + 0.01, abs=0.04)
    assert junk / 1200 == pytest.approx(0.05, abs=0.02)


def test_answers_are_balanced_and_options_stand_in_both_orders() -> None:
    answers: Counter[tuple[str, str]] = Counter()
    orders: Counter[str] = Counter()
    for n in range(800):
        for asked in questions(drawn_facts(n, 3), rng(n)):
            answers[asked.kind, asked.answer] += 1
            if asked.kind == "material":
                orders[asked.question.split(" ")[-3]] += 1
    assert answers["existence", "yes"] == answers["existence", "no"] == 800
    for kind, first, second in (("side", "left", "right"), ("depth", "in front", "behind")):
        a, b = answers[kind, first], answers[kind, second]
        assert a / (a + b) == pytest.approx(0.5, abs=0.08)
    assert orders["matte"] / 800 == pytest.approx(0.5, abs=0.07)


@given(seeds, counts, seeds)
@settings(max_examples=40, deadline=None)
def test_what_is_absent_resembles_what_is_there(scene: int, count: int, draw: int) -> None:
    facts = drawn_facts(scene, count)
    (absent,) = (
        q.question for q in questions(facts, rng(draw)) if (q.kind, q.answer) == ("existence", "no")
    )
    color, shape = absent.removesuffix(" in the image?").split()[-2:]
    assert any(color == thing.color or shape == thing.shape for thing in facts.things)


def test_in_front_of_is_by_depth_and_closest_by_distance() -> None:
    aside = Fact("ball", "blue", "small", "matte", (3.2, 0.0, 4.0), (0.8, 0.4, 0.9, 0.5))
    ahead = Fact("cube", "red", "small", "matte", (0.0, 0.0, 4.6), (0.4, 0.4, 0.5, 0.5))
    scene = Facts([ahead, aside], "gray", "dark")
    assert aside.distance_m > ahead.distance_m + 0.5
    (asked,) = [q for q in questions(scene, rng()) if q.kind == "depth"]
    in_front = asked.question.startswith("Is the blue ball")
    assert asked.answer == ("in front" if in_front else "behind")
    assert "The red cube is closest to the camera." in detailed_reference(scene, rng())

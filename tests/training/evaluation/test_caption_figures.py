"""Figures of captions, against the facts that the captions were made of."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_rows import COLORS, MATERIALS, SHAPES, SIZES, a_thing, drawn_rows

from vila2data.training.evaluation.captions import caption_figures, shifted, tally
from vila2data.training.evaluation.claims import ClaimReader
from vila2data.training.evaluation.scenes import Scene, Thing, Vocabulary

WORDS = Vocabulary(
    SHAPES, tuple(COLORS), SIZES, MATERIALS, ("gray", "wooden"), ("dark", "white"), {}
)


def as_thing(told):
    return Thing(**told["words"], bbox_norm=tuple(told["bbox"]), center=tuple(told["center"]))


def a_scene(*things, key="k", floor="gray", wall="white"):
    return Scene(key, b"", [as_thing(t) for t in things], floor, wall, None, ())


def scene_of(row):
    things = [
        Thing(
            **{n: words[n] for n in ("shape", "color", "size", "material")},
            bbox_norm=tuple(place["bbox"]),
            center=tuple(place["center"]),
        )
        for place, words in zip(row["objects"], row["attributes"], strict=True)
    ]
    return Scene(row["key"], b"", things, row["floor"], row["wall"], None, ())


def tally_of(text, scene):
    return {k: v for k, v in tally(ClaimReader(WORDS).read(text), scene).items() if v[1]}


SCENE = a_scene(
    a_thing("red", "cube", -1.2, 3.0, size="large", material="shiny"),
    a_thing("blue", "ball", 1.2, 5.0),
)


def test_each_claim_is_held_against_the_truth():
    text = (
        "There are three objects on a gray floor before a dark wall. "
        "A large matte red cube stands on the left. A blue ball stands on the left. "
        "A green cone lies in the middle. "
        "The red cube is in front of the blue ball. The blue ball is to the left of the red cube. "
        "The green cone is behind the red cube."
    )
    assert tally_of(text, SCENE) == {
        "object_precision": (2, 3),
        "object_recall": (2, 2),
        "hallucinated_share": (1, 1),
        "attribute_accuracy": (1, 2),
        "side_accuracy": (1, 2),
        "said_relation_accuracy": (1, 2),
        "floor_accuracy": (1, 1),
        "wall_accuracy": (0, 1),
        "count_accuracy": (0, 1),
    }


def test_what_is_not_said_is_not_counted():
    assert tally_of("nothing", SCENE) == {"object_recall": (0, 2), "hallucinated_share": (0, 1)}


def test_what_is_said_twice_counts_once_and_both_of_two_contradictions_count():
    twice = "A red cube is on the left. The red cube is on the left. The red cube is on the right."
    assert tally_of(twice, SCENE)["side_accuracy"] == (1, 2)
    assert tally_of(twice, SCENE)["object_precision"] == (1, 1)


@pytest.mark.parametrize(
    ("box", "side"),
    [
        ((0.0, 0, 0.6, 1), "left"),
        ((0.3, 0, 0.4, 1), "middle"),
        ((0.3, 0, 1.0, 1), "middle"),
        ((0.4, 0, 1.0, 1), "right"),
    ],
)
def test_the_side_is_the_third_of_the_middle_of_the_box(box, side):
    assert Thing("cube", "red", "small", "matte", box, (0, 0, 1)).side == side


def test_left_is_by_direction_and_in_front_by_depth():
    # The far cube has the greater x, and is left of the near ball as the camera sees it.
    far, near = a_thing("red", "cube", 0.9, 6.0), a_thing("blue", "ball", 0.6, 2.0)
    scene = a_scene(far, near)
    said = {
        "The red cube is to the left of the blue ball.": (1, 1),
        "The red cube is to the right of the blue ball.": (0, 1),
        "The red cube is behind the blue ball.": (1, 1),
        "The red cube is in front of the blue ball.": (0, 1),
    }
    assert {text: tally_of(text, scene)["said_relation_accuracy"] for text in said} == said


def test_true_descriptions_have_everything_right():
    rows = drawn_rows(8)
    figures = caption_figures([r["reference"] for r in rows], [scene_of(r) for r in rows], WORDS)
    rights = {n: f for n, f in figures.items() if n.endswith(("accuracy", "precision", "recall"))}
    seen = {n: f for n, f in rights.items() if not n.startswith("blind")}
    assert {(f.value, f.standard_error) for f in seen.values()} == {(1.0, 0.0)}
    assert len(seen) == 8
    assert figures["hallucinated_share"].value == 0
    assert figures["words"].value == sum(len(r["reference"].split()) for r in rows) / 8
    assert figures["side_accuracy"].count == sum(len(r["objects"]) for r in rows)
    assert figures["blind_object_precision"].value < 0.5


def test_blind_figures_are_those_of_the_next_scene_s_caption():
    rows = drawn_rows(5, seed=3)
    captions, scenes = [r["reference"] for r in rows], [scene_of(r) for r in rows]
    figures = caption_figures(captions, scenes, WORDS)
    moved = caption_figures([*captions[1:], captions[0]], scenes, WORDS)
    for name, figure in figures.items():
        if name.startswith("blind_"):
            assert figure == moved[name.removeprefix("blind_")], name


@given(st.integers(2, 200))
def test_no_scene_is_given_its_own(count):
    others = shifted(count)
    assert sorted(others) == list(range(count))
    assert all(other != own for own, other in enumerate(others))


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=9))
def test_unique_captions_and_their_jackknife(captions):
    figure = caption_figures(captions, [SCENE] * len(captions), WORDS)["unique_captions"]
    count = len(captions)
    assert figure.value == len(set(captions)) / count
    left_out = [len(set(captions[:n] + captions[n + 1 :])) / (count - 1) for n in range(count)]
    mean = sum(left_out) / count
    squares = sum((share - mean) ** 2 for share in left_out)
    assert figure.standard_error == pytest.approx(((count - 1) / count * squares) ** 0.5)


PAIRS = list(product(COLORS, SHAPES))
PLACES = st.lists(st.sampled_from([-1.5, -0.7, 0.1, 0.9, 1.6]), min_size=4, max_size=4, unique=True)
FACTS = st.fixed_dictionaries(
    {
        "pairs": st.lists(st.sampled_from(PAIRS), min_size=4, max_size=4, unique=True),
        "x": PLACES,
        "z": st.permutations([2.5, 3.5, 4.5, 5.5]),
        "present": st.integers(1, 3),
        "attributes": st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from([*SIZES, *MATERIALS])), max_size=4
        ),
        "sides": st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["left", "right", "middle"])), max_size=4
        ),
        "relations": st.lists(
            st.tuples(
                st.permutations(range(4)).map(lambda order: order[:2]),
                st.sampled_from(["left", "right", "front", "behind"]),
            ),
            max_size=4,
        ),
    }
)
_SAY = {
    "left": "to the left of",
    "right": "to the right of",
    "front": "in front of",
    "behind": "behind",
}


@settings(max_examples=60, deadline=None)
@given(FACTS)
def test_a_tally_is_that_of_the_facts_that_a_text_was_made_of(facts):
    names = [" ".join(pair) for pair in facts["pairs"]]
    things = [
        a_thing(*pair, x, z)
        for pair, x, z in zip(facts["pairs"], facts["x"], facts["z"], strict=True)
    ]
    present = range(facts["present"])
    sentences = [f"A {word} {names[n]} is seen." for n, word in facts["attributes"]]
    places = {"middle": "in the middle", "left": "on the left", "right": "on the right"}
    sentences += [f"The {names[n]} stands {places[side]}." for n, side in facts["sides"]]
    sentences += [
        f"The {names[a]} is {_SAY[relation]} the {names[b]}."
        for (a, b), relation in facts["relations"]
    ]
    found = tally(
        ClaimReader(WORDS).read(" ".join(sentences)), a_scene(*(things[n] for n in present))
    )

    attributes = {f for f in facts["attributes"] if f[0] in present}
    sides = {f for f in facts["sides"] if f[0] in present}
    relations = {(a, r, b) for (a, b), r in facts["relations"] if a in present and b in present}
    named = {n for n, _ in facts["attributes"]} | {n for n, _ in facts["sides"]}
    named |= {n for pair, _ in facts["relations"] for n in pair}
    order = sorted(range(4), key=lambda n: facts["x"][n] / facts["z"][n])
    depth = sorted(range(4), key=lambda n: facts["z"][n])

    def holds(a, relation, b):
        ranks = order if relation in ("left", "right") else depth
        before = ranks.index(a) < ranks.index(b)
        return before if relation in ("left", "front") else not before

    def side_of(n):
        middle = (things[n]["bbox"][0] + things[n]["bbox"][2]) / 2
        return ("left", "middle", "right")[(middle >= 1 / 3) + (middle > 2 / 3)]

    assert found["object_precision"] == (len(named & set(present)), len(named))
    assert found["object_recall"] == (len(named & set(present)), len(present))
    assert found["hallucinated_share"] == (bool(named - set(present)), 1)
    right = sum(word in ("small", "matte") for _, word in attributes)
    assert found["attribute_accuracy"] == (right, len(attributes))
    assert found["side_accuracy"] == (sum(side_of(n) == s for n, s in sides), len(sides))
    said = sum(holds(*one) for one in relations)
    assert found["said_relation_accuracy"] == (said, len(relations))

"""What a caption is understood to say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.training.evaluation.claims import ClaimReader
from vila2data.training.evaluation.scenes import Vocabulary

WORDS = Vocabulary(
    shapes=("ball", "box", "cube", "ring"),
    colors=("blue", "red", "sky blue"),
    sizes=("large", "small"),
    materials=("matte", "shiny"),
    floors=("checkered", "gray"),
    walls=("dark", "gray"),
    answers={},
)
READER = ClaimReader(WORDS)
RED, BLUE = ("red", "cube"), ("blue", "ball")


def read(text):
    return READER.read(text)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("the red cube", {RED}),
        ("A LARGE shiny Red CUBE", {RED}),
        ("a red, shiny and large cube", {RED}),
        ("a shiny red small cube and a matte blue ball", {RED, BLUE}),
        ("two red cubes and some blue boxes", {RED, ("blue", "box")}),
        ("a sky blue ball", {("sky blue", "ball")}),
        ("a red\n large   cube", {RED}),
        ("a red and a blue cube", {("blue", "cube")}),
        ("a red blue cube", {("blue", "cube")}),
        ("a red cube . the red cube is there", {RED}),
        ("a cube that is red", set()),
        ("the cube", set()),
        ("a large shiny cube", set()),
        ("a green cube, a red pyramid", set()),
        ("a blood-red cube", set()),
        ("a red cubed thing, a bored cube", set()),
        ("a red, cube-like thing", set()),
        ("", set()),
    ],
)
def test_an_object_is_named_by_colour_and_shape_in_whole_words(text, objects):
    # A line break ends a sentence, and so a name.
    expected = set() if "\n" in text else objects
    assert read(text).objects == expected


def test_adjectives_come_in_any_order_and_count_once():
    claims = read("The large shiny red cube. A shiny red cube. The matte small red cube.")
    assert claims.attributes == {
        (RED, "size", "large"),
        (RED, "size", "small"),
        (RED, "material", "shiny"),
        (RED, "material", "matte"),
    }
    assert read("a large cube and a red cube").attributes == frozenset()


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("A red cube, small and matte, stands on the left.", {"small", "matte"}),
        ("A red cube that is large and shiny can be seen on the left.", {"large", "shiny"}),
        ("The red cube is shiny, and it is large.", {"shiny"}),
        ("On the left there is a red cube, matte.", {"matte"}),
        ("A small red cube, shiny.", {"small", "shiny"}),
        ("A red cube, large blue balls and more", set()),
        ("A red cube. Small and matte.", set()),
        ("A red cube is smaller, blue", set()),
    ],
)
def test_attributes_may_stand_after_the_name(text, attributes):
    found = read(text).attributes
    assert {word for pair, _, word in found if pair == RED} == attributes


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("A red cube stands on the left.", {(RED, "left")}),
        ("On the right there is a large red cube", {(RED, "right")}),
        ("the red cube is in the middle of the image", {(RED, "middle")}),
        ("the red cube is in the center", {(RED, "middle")}),
        ("the red cube is on the left side of the picture", {(RED, "left")}),
        ("the red cube is on the right of the image", {(RED, "right")}),
        ("The red cube. The red cube is on the left!", {(RED, "left")}),
        (
            "the red cube is on the left; a blue ball is on the right",
            {(RED, "left"), (BLUE, "right")},
        ),
        ("a red cube and a blue ball on the left", set()),
        ("the red cube is on the left of it", set()),
        ("it is to the left of the red cube", set()),
        ("it is on the right side of the red cube", set()),
        ("the red cube is in the middle of the table", set()),
        ("the red cube is left out", set()),
        ("on the left", set()),
    ],
)
def test_a_side_is_said_of_the_only_object_of_a_sentence(text, sides):
    assert read(text).sides == sides


@pytest.mark.parametrize(
    ("text", "relations"),
    [
        ("The red cube is in front of the blue ball.", {(RED, "front", BLUE)}),
        ("a red cube behind a blue ball", {(RED, "behind", BLUE)}),
        ("the red cube stands to the left of the small blue ball", {(RED, "left", BLUE)}),
        ("the red cube lies directly right of the blue ball", {(RED, "right", BLUE)}),
        ("the red cube is on the left of the blue ball", {(RED, "left", BLUE)}),
        ("Behind the blue ball there is a red cube", {(RED, "behind", BLUE)}),
        ("To the right of the blue ball stands a red cube", {(RED, "right", BLUE)}),
        (
            "the red cube is behind the blue ball, which is in front of the red box",
            {(RED, "behind", BLUE), (BLUE, "front", ("red", "box"))},
        ),
        ("the red cube is left of the red cube", {(RED, "left", RED)}),
        (
            "the red cube is there, and in front of the blue ball is a red box",
            {(("red", "box"), "front", BLUE)},
        ),
        ("the red cube and behind it the blue ball", set()),
        ("the red cube is near the blue ball", set()),
        ("the red cube is behind. The blue ball", set()),
    ],
)
def test_a_relation_is_said_between_two_objects(text, relations):
    assert read(text).relations == relations


@pytest.mark.parametrize(
    ("text", "floors", "walls", "counts"),
    [
        ("three objects on a gray floor", {"gray"}, set(), {3}),
        ("Four objects before a dark wall; the floor is checkered.", {"checkered"}, {"dark"}, {4}),
        ("a gray wall and a gray floor, 5 objects", {"gray"}, {"gray"}, {5}),
        ("one object. two objects", set(), set(), {1, 2}),
        ("a light-gray floor, a red floor, the floor", set(), set(), set()),
        ("three red objects, thirty objects, a floor", set(), set(), set()),
    ],
)
def test_floor_wall_and_number(text, floors, walls, counts):
    claims = read(text)
    assert (claims.floors, claims.walls, claims.counts) == (floors, walls, counts)


_PIECES = [
    *("red", "blue", "cube", "ball", "large", "shiny", "the", "a", "and", ",", ".", ";"),
    *("on the left", "is", "behind", "in front of", "to the left of", "gray floor", "10 objects"),
    *("⟨0⟩", "⟨7⟩", "\n", "İ", "\x00", "(["),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=30).map(" ".join) | st.text(max_size=80))
def test_any_text_is_read_and_says_only_known_words(text):
    claims = read(text)
    known = {(color, shape) for color in WORDS.colors for shape in WORDS.shapes}
    assert claims.objects <= known
    assert {pair for pair, _, _ in claims.attributes} <= claims.objects
    assert {pair for pair, _ in claims.sides} <= claims.objects
    assert {pair for a, _, b in claims.relations for pair in (a, b)} <= claims.objects
    if text.isascii():
        assert read(text.upper()) == claims


def test_what_looks_like_the_reader_s_own_marks_is_no_mention():
    assert read("⟨0⟩ is behind the ⟨1⟩. the red cube, ⟨0⟩ behind ⟨0⟩").relations == frozenset()


def test_words_of_a_build_are_no_patterns():
    odd = Vocabulary(("c.be", "a+b"), ("r(d", "."), (), (), ("gr[y",), (), {})
    reader = ClaimReader(odd)
    assert reader.read("a r(d c.be and a red cube").objects == {("r(d", "c.be")}
    assert reader.read("the gr[y floor").floors == {"gr[y"}


def test_without_words_nothing_is_seen():
    claims = ClaimReader(Vocabulary((), (), (), (), (), (), {})).read("a red cube on a gray floor")
    assert not any((claims.objects, claims.attributes, claims.floors, claims.walls))


def test_words_stand_as_the_build_writes_them():
    reader = ClaimReader(Vocabulary(("Cube",), ("Red",), ("Large",), (), ("Gray",), (), {}))
    claims = reader.read("a large red cube on a gray floor")
    assert claims.objects == {("Red", "Cube")}
    assert claims.attributes == {(("Red", "Cube"), "size", "Large")}
    assert claims.floors == {"Gray"}


def test_the_longest_word_is_meant():
    words = Vocabulary(("ball", "ball joint"), ("blue", "light", "light blue"), (), (), (), (), {})
    reader = ClaimReader(words)
    assert reader.read("a light blue ball joint").objects == {("light blue", "ball joint")}

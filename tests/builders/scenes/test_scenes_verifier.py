from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from scene_builds import Rows, build_scenes, changed, problems_of, rows_in

from vila2data.build.manifest import Manifest, read_manifest
from vila2data.builders.scenes.verifier.answers import balance_problems

pytest.importorskip("open3d")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_scenes(
        tmp_path_factory.mktemp("verified"), train=14, test=4, image_side_px=24, seed=2
    )


@pytest.fixture(scope="module")
def manifest(build: Path) -> Manifest:
    return read_manifest(build)


@pytest.fixture(scope="module")
def made(build: Path) -> Rows:
    return rows_in(build)


@pytest.fixture
def rows(made: Rows) -> Rows:
    return deepcopy(made)


def put(name: str, value: Any) -> Callable[[Row], None]:
    """Puts a value into a column; a dotted name leads into the first of a list."""

    def change(row: Row) -> None:
        *outer, last = name.split(".")
        place: Any = row
        for part in outer:
            place = place[part][0]
        place[last] = value

    return change


def replaced(row: Row, old: str, new: str) -> None:
    """Changes the reference, and the conversation with it."""
    if row["reference"] is None or old not in row["reference"]:
        raise LookupError
    row["reference"] = row["reference"].replace(old, new, 1)
    row["messages"][1]["content"] = row["reference"]


def swapped_word(row: Row, column: str, words: tuple[str, str]) -> None:
    """The first object's word becomes the other one in the reference."""
    own = row["attributes"][0]
    other = words[own[column] == words[0]]
    told = f"{own['color']} {own['shape']}{{}} {own['size']} and {own['material']}"
    for between in (",", " that is"):
        if told.format(between) in (row["reference"] or ""):
            replaced(row, told.format(between), told.format(between).replace(own[column], other))
            return
    raise LookupError


def answered(kind: str, answer: str) -> Callable[[Row], None]:
    """Gives a question another answer, in the conversation too."""

    def change(row: Row) -> None:
        number = next((n for n, q in enumerate(row["questions"]) if q["kind"] == kind), None)
        if number is None or row["questions"][number]["answer"] == answer:
            raise LookupError
        row["questions"][number]["answer"] = answer
        turn = 2 * (number + (row["reference"] is not None)) + 1
        row["messages"][turn]["content"] = answer

    return change


def relation_turned(row: Row) -> None:
    for old, new in (("to the left of", "to the right of"), ("in front of the", "behind the")):
        sentences = (row["reference"] or "").split(". ")
        if any(old in sentence for sentence in sentences[-2:]):
            head, _, tail = row["reference"].rpartition(old)
            row["reference"] = row["messages"][1]["content"] = head + new + tail
            return
    raise LookupError


def nearest_left_out(row: Row) -> None:
    if row["reference"] is None or "closest" not in row["reference"]:
        raise LookupError
    head = row["reference"].rpartition(" The ")[0]
    row["reference"] = row["messages"][1]["content"] = head


def objects_turned_around(row: Row) -> None:
    row["objects"].reverse()
    row["attributes"].reverse()


def same_name(row: Row) -> None:
    first, second = row["attributes"][:2]
    second["color"], second["shape"] = first["color"], first["shape"]


def cube_shrunk(row: Row) -> None:
    for placed, told in zip(row["objects"], row["attributes"], strict=True):
        if told["shape"] == "cube":
            placed["bbox"][0] += 0.09
            return
    raise LookupError


BROKEN: list[tuple[str, Callable[[Row], Any], str]] = [
    ("null", put("floor", None), "a column is missing, broken or not finite"),
    ("null object", put("objects", [None, None]), "a column is missing, broken or not finite"),
    ("not finite", put("objects.center", [float("nan"), 0, 1]), "a column is missing, broken"),
    ("behind the camera", put("objects.center", [0, 0, -1]), "a column is missing, broken"),
    ("size", put("width", 25), "an image has another size than the recipe says"),
    ("attribute", put("attributes.color", "teal"), "an attribute is unknown"),
    ("floor", put("floor", "marble"), "a floor or wall is unknown"),
    ("category", put("objects.category", "thing"), "a category is not the shape"),
    ("hidden", put("attributes.visibility", 0.34), "an object is hidden more than the recipe"),
    ("visible", put("attributes.visibility", 1.5), "an object is hidden more than the recipe"),
    ("rotation", put("objects.rotation", [1, 0, 0, 0, 1, 0, 0, 0, -1]), "a rotation is none"),
    ("no size", put("objects.dimensions", [1, 0, 1]), "a box in space has no size"),
    ("empty bbox", put("objects.bbox", [0.5, 0.5, 0.5, 0.6]), "a bbox is empty or leaves the"),
    ("bbox outside", put("objects.bbox", [-0.1, 0.2, 0.3, 0.4]), "a bbox is empty or leaves the"),
    ("bbox moved", put("objects.bbox", [0.0, 0.0, 0.1, 0.1]), "a bbox leaves the projected box"),
    ("cube", cube_shrunk, "the bbox of a cube is smaller than the projected box in space"),
    ("names", same_name, "two objects have the same colour and shape"),
    ("order", objects_turned_around, "objects do not stand from left to right"),
    ("alt-text", put("alt_text", " "), "an alt-text is blank or too long"),
    ("alt-text bytes", put("alt_text", "a café"), "an alt-text holds other characters than"),
    ("size told", lambda r: swapped_word(r, "size", ("small", "large")), "a reference is wrong ab"),
    (
        "material told",
        lambda r: swapped_word(r, "material", ("matte", "shiny")),
        "a reference is wrong about an object",
    ),
    (
        "floor told",
        lambda r: replaced(r, f"{r['floor']} floor", "marble floor"),
        "a reference is wrong about number, floor or wall",
    ),
    ("side told", lambda r: replaced(r, "n the left", "n the right"), "wrong about an object"),
    ("no sentence", lambda r: replaced(r, "objects on a", "things on a"), "first sentence of a re"),
    ("relation", relation_turned, "a reference is wrong about a relation"),
    ("nearest", nearest_left_out, "a reference does not tell the nearest object"),
    ("count", answered("count", "nine"), "an answer is wrong: count"),
    ("color", answered("color", "red"), "an answer is wrong: color"),
    ("shape", answered("shape", "cube"), "an answer is wrong: shape"),
    ("size asked", answered("size", "small"), "an answer is wrong: size"),
    ("material asked", answered("material", "matte"), "an answer is wrong: material"),
    ("floor asked", answered("floor", "gray"), "an answer is wrong: floor"),
    ("side", answered("side", "left"), "an answer is wrong: side"),
    ("depth", answered("depth", "behind"), "an answer is wrong: depth"),
    ("existence", answered("existence", "no"), "existence is not asked once for what is there"),
    ("kind", put("questions.kind", "mood"), "a question cannot be read, or is of another kind"),
    ("question", put("questions.question", "Why?"), "a question cannot be read, or is of another"),
    (
        "twice",
        lambda r: r["questions"].append(r["questions"][0]),
        "a kind of question stands twice",
    ),
    ("no reference", put("reference", None), "a scene of the config test has no reference"),
    ("no questions", put("questions", []), "a scene of the config test has no questions"),
    ("no messages", put("messages", None), "messages are not the reference and the questions"),
    ("prompt", put("messages.content", "<image>\nHm?"), "messages are not the reference and the"),
    ("no image mark", put("messages.content", "Describe."), "messages are not the reference and"),
]


def test_a_sound_build_has_no_problems(rows: Rows, manifest: Manifest) -> None:
    assert problems_of(rows, manifest) == []


@pytest.mark.parametrize(("change", "said"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_row_is_named_with_its_rule(
    rows: Rows, manifest: Manifest, change: Callable[[Row], None], said: str
) -> None:
    key = changed(rows, "test", change)
    found = problems_of(rows, manifest)
    (line,) = [line for line in found if said in line]
    assert line.startswith("test: ")
    assert line.endswith(f": 1 rows, such as {key}")


@pytest.mark.parametrize(
    "kinds", [{"count": 1.0}, {"existence": 1.0, "count": 1.0}, {"count": 1.0, "size": 0.5}]
)
def test_questions_of_train_are_of_the_kinds_that_are_asked(
    rows: Rows, manifest: Manifest, kinds: dict[str, float]
) -> None:
    settings = {**manifest.recipe["questions"], "kinds": kinds}
    (line,) = problems_of(rows, manifest, questions=settings)
    assert line.startswith("train: a question is of a kind that is not asked")
    for number, row in enumerate(rows["train"]):
        shares = dict.fromkeys(kinds, 1.0) if number % 2 else kinds
        kept = [each for each in row["questions"] if shares.get(each["kind"], 0) == 1]
        if row["questions"]:
            first = 2 if row["reference"] is not None else 0
            told = [
                {"role": role, "content": text}
                for each in kept
                for role, text in (("user", each["question"]), ("assistant", each["answer"]))
            ]
            if not first:
                told[0]["content"] = f"<image>\n{told[0]['content']}"
            row["messages"][first:] = told
        row["questions"] = kept
    assert problems_of(rows, manifest, questions=settings) == []
    without = {**settings, "kinds": {**kinds, "floor": 1.0}}
    (line,) = problems_of(rows, manifest, questions=without)
    assert "a question is missing that every scene allows" in line


def test_keys_and_images_of_the_splits_are_their_own(rows: Rows, manifest: Manifest) -> None:
    rows["train"][3]["image_sha256"] = rows["test"][0]["image_sha256"]
    rows["train"][4]["key"] = rows["train"][5]["key"]
    rows["train"][6]["key"] = "test-0000001"
    assert problems_of(rows, manifest) == [
        "test: a key stands twice: 1 rows, such as test-0000001",
        "test: an image is also in the other config: 1 rows, such as test-0000000",
        "train: a key is not one of the config: 1 rows, such as test-0000001",
        "train: a key stands twice: 1 rows, such as train-0000005",
    ]


def test_numbers_of_rows_configs_and_objects_are_those_of_the_recipe(
    rows: Rows, manifest: Manifest
) -> None:
    assert problems_of(rows, manifest, train=15) == ["train: has 14 rows, the recipe asks for 15"]
    assert problems_of({"train": rows["train"]}, manifest, test=4) == [
        "configs are train; the recipe asks for train, test"
    ]
    found = problems_of(rows, manifest, objects={"min": 9, "max": 9})
    assert found[0].startswith("test: a scene has another number of objects than the recipe")
    assert problems_of(rows, manifest, min_visibility=2.0) == [
        "recipe: min_visibility: Input should be less than or equal to 1; no row could be checked"
    ]


def test_shares_are_those_of_the_recipe_but_for_chance(rows: Rows, manifest: Manifest) -> None:
    count = sum(row["reference"] is not None for row in rows["train"])
    assert problems_of(rows, manifest, reference={"share": 0.0}) == [
        f"train: {count} of 14 scenes have references, the recipe asks for a share of 0.0"
    ]
    assert 0 < count < 14


def test_a_build_of_the_style_located_has_neither_questions_nor_descriptions(
    rows: Rows, manifest: Manifest
) -> None:
    located = {"reference": {"share": 0.5, "style": "located"}, "questions": {"share": 0.0}}
    rules = {line.split(": ")[1] for line in problems_of(rows, manifest, **located)}
    assert rules >= {
        "a reference is no list of names and boxes",
        "a scene has questions where the style is located",
        "messages are not the reference and the questions",
    }


def test_answers_out_of_balance_are_told_beyond_chance_alone() -> None:
    assert list(balance_problems(Counter({("side", "left"): 60, ("side", "right"): 100}))) == []
    assert list(
        balance_problems(Counter({("depth", "behind"): 100, ("depth", "in front"): 30}))
    ) == ["questions of kind depth are out of balance: 30 in front, 100 behind"]

"""Rows are made by hand here, with corners and plain formulas; the verifier uses neither."""

import copy
import itertools
import math

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vila2data.boxes import CONVENTIONS
from vila2data.build.manifest import BuildFile, Manifest
from vila2data.builders.spatial_relation_qa.names import RELATIONS
from vila2data.builders.spatial_relation_qa.templates import templates
from vila2data.builders.spatial_relation_qa.verifier import problems
from vila2data.builders.spatial_relation_qa.verifier.geometry import Boxes, distances_m
from vila2data.cuboids import gaps
from vila2data.schema import features_of

WIDTH, HEIGHT = 640, 480
K = [500.0, 0.5, 321.0, 0.0, 510.0, 239.0, 0.0, 0.0, 1.0]  # a little skew, so that it counts
CLOSE_BELOW_M, FAR_ABOVE_M = 4.5, 6.0
RECIPE = {"questions": {"per_image": 40, "forms": {"box": 1, "phrase": 1, "yes_no": 1}}}
TABLE, NEAR_CHAIR, FAR_CHAIR, LAMP, PLANT = range(5)
FACING = {"in_front_of": NEAR_CHAIR, "behind": FAR_CHAIR, "left_of": NEAR_CHAIR}
TARGETS = {  # of the chairs
    **{f"object_object.{name}": target for name, target in FACING.items()},
    "object_object.closest": NEAR_CHAIR,
    "object_object.right_of": FAR_CHAIR,
    "object_camera.closest": NEAR_CHAIR,
    "object_camera.farthest": FAR_CHAIR,
    "object_camera.close": NEAR_CHAIR,
    "object_camera.far": FAR_CHAIR,
    "object_camera.left": NEAR_CHAIR,
    "object_camera.right": FAR_CHAIR,
}


def turn(yaw=0.0, pitch=0.0, roll=0.0):
    """A rotation by angles in radians."""
    c, s = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
    about_x = np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
    about_z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def corners(box):
    width, height, length = box["dimensions"]
    rotation = np.reshape(box["rotation"], (3, 3))
    signs = itertools.product((-0.5, 0.5), repeat=3)
    own = [(length * a, height * b, width * c) for a, b, c in signs]
    return [rotation @ point + box["center"] for point in own]


def seen(box, size=(WIDTH, HEIGHT), camera=K):
    """The box of the image around the corners, cut to the image."""
    points = [np.reshape(camera, (3, 3)) @ corner for corner in corners(box)]
    across = [float(p[0] / p[2]) / size[0] for p in points]
    down = [float(p[1] / p[2]) / size[1] for p in points]
    edges = (min(across), min(down), max(across), max(down))
    return [float(np.float32(min(max(edge, 0.0), 1.0))) for edge in edges]


def box(category, center, dimensions, rotation=None):
    numbers = turn(yaw=0.4) if rotation is None else rotation
    made = {"center": center, "dimensions": dimensions, "rotation": np.ravel(numbers)}
    stored = {name: [float(np.float32(x)) for x in values] for name, values in made.items()}
    return {"category": category, "bbox": seen(stored), **stored}


def room():
    return [
        box("table", [0.0, 0.4, 5.2], [0.6, 0.7, 1.0]),
        box("chair", [-1.2, 0.3, 4.0], [0.5, 0.9, 0.6]),
        box("chair", [1.6, 0.3, 6.6], [0.5, 0.9, 0.6], turn(0.7, 0.1, -0.2)),
        box("lamp", [0.4, -0.5, 7.5], [0.3, 0.8, 0.3], turn(-0.5, 0.2, 0.1)),
        box("plant", [-1.0, -0.6, 8.0], [0.5, 0.6, 0.7], turn(2.0, -0.1, 0.3)),
    ]


def apart(boxes, a, b):
    return math.dist(boxes[a]["center"], boxes[b]["center"])


def score(boxes, name, c, anchor):
    x, _, z = boxes[c]["center"]
    family, relation = name.split(".")
    if family == "object_camera":
        away = math.hypot(*boxes[c]["center"])
        known = {"close": CLOSE_BELOW_M - z, "far": z - FAR_ABOVE_M, "left": -x, "right": x}
        return {"closest": -away, "farthest": away, **known}[relation]
    ax, _, az = boxes[anchor]["center"]
    known = {"in_front_of": az - z, "behind": z - az, "left_of": ax - x, "right_of": x - ax}
    return -apart(boxes, c, anchor) if relation == "closest" else known[relation]


def question(
    boxes, name, target, form="box", *, anchor=TABLE, named=None, written="norm3", number=0
):
    """One entry of ``relations`` and its two messages."""
    family, relation = name.split(".")
    anchor = anchor if family == "object_object" else -1
    category = boxes[target]["category"]
    same = [n for n, b in enumerate(boxes) if b["category"] == category and n != anchor]
    scores = {n: score(boxes, name, n, anchor) for n in same}
    others = [scores[n] for n in same if n != target]
    entry = {
        "relation": relation,
        "family": family,
        "anchor": anchor,
        "target": target,
        "candidates": same,
        "gap": scores[target] - max(others) if others else abs(scores[target]),
    }
    texts = [CONVENTIONS[written].render(b["bbox"], (WIDTH, HEIGHT)) for b in boxes]
    used = templates(family, relation, form)[number]
    about = boxes[anchor]["category"] if anchor >= 0 else None
    asked = used.ask(
        category,
        about,
        texts[anchor] if anchor >= 0 else None,
        texts[named] if form == "yes_no" else None,
    )
    answer = used.reply(category, about, box=texts[target], holds=named == target)
    return {**entry, "template_id": used.id}, asked, answer


def row(boxes, asked, **values):
    messages = [
        {"role": role, "content": text}
        for _, *pair in asked
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    if messages:
        messages[0]["content"] = "<image>\n" + messages[0]["content"]
    sides = {"left_of", "right_of", "left", "right"}
    return {
        "id": "made/a",
        "width": WIDTH,
        "height": HEIGHT,
        "source": "made",
        "intrinsics": K,
        "objects": boxes,
        "relations": [entry for entry, *_ in asked],
        "messages": messages,
        "flip_safe": not any(entry["relation"] in sides for entry, *_ in asked),
    } | values


def one(name, target=None, form="box", boxes=None, **options):
    """A row with one question about the chairs."""
    boxes = boxes or room()
    return row(boxes, [question(boxes, name, target or TARGETS[name], form, **options)])


def whole(written="norm3"):
    """A row with every relation; boxes, sentences, and a yes and a no."""
    boxes = room()
    asked = [question(boxes, name, TARGETS[name], written=written) for name in RELATIONS]
    asked[1] = question(boxes, RELATIONS[1], NEAR_CHAIR, "phrase", written=written)
    asked[2] = question(boxes, RELATIONS[2], FAR_CHAIR, "yes_no", named=FAR_CHAIR, written=written)
    asked[6] = question(boxes, RELATIONS[6], FAR_CHAIR, "yes_no", named=NEAR_CHAIR, written=written)
    return row(boxes, asked)


SCHEMAS = [
    features_of("spatial-relation-qa", c)[0].arrow_schema for c in ("default", "default-rejects")
]


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Gives the problems of a build with some rows."""
    folder = tmp_path_factory.mktemp("rows")
    files = [folder / "default.parquet", folder / "rejects.parquet"]
    threshold = {"source": "made", "close_below_m": CLOSE_BELOW_M, "far_above_m": FAR_ABOVE_M}
    connection = duckdb.connect(config={"threads": 1})
    for name, file in zip(("default", "default-rejects"), files, strict=True):
        pq.write_table(
            pa.Table.from_pylist([], schema=SCHEMAS[0 if name == "default" else 1]), file
        )
        connection.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_parquet('{file}')")

    def run(
        *rows,
        rejects=(),
        recipe=RECIPE,
        sources=(threshold,),
        configs=("default", "default-rejects"),
    ):
        for content, schema, file in zip((rows, rejects), SCHEMAS, files, strict=True):
            if rejects or file is files[0]:
                pq.write_table(pa.Table.from_pylist(list(content), schema=schema), file)
        named = [BuildFile(c, c, "train", 1, 1, "") for c in configs]
        manifest = Manifest(
            "spatial-relation-qa",
            "1.0.0",
            2,
            "other",
            "default",
            recipe,
            list(sources),
            {},
            named,
            [],
            {},
        )
        try:
            return problems(connection, manifest)
        finally:
            if rejects:
                pq.write_table(pa.Table.from_pylist([], schema=SCHEMAS[1]), files[1])

    return run


WHOLE = whole()
SECOND = one("object_object.behind") | {"id": "made/b"}


def told(rule, *ids):
    ids = ids or ("made/a",)
    return f"default: {rule}: {len(ids)} rows, such as {', '.join(ids[:3])}"


def test_sound_rows_have_no_problem(check):
    assert check(WHOLE, SECOND) == []


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("form", ["box", "phrase", "yes_no"])
def test_every_relation_in_every_form_is_sound(check, name, form):
    assert check(one(name, form=form, named=NEAR_CHAIR)) == []


@pytest.mark.parametrize("written", CONVENTIONS)
def test_boxes_may_be_written_by_any_convention(check, written):
    recipe = {"questions": RECIPE["questions"] | {"boxes": written}}
    assert check(whole(written), recipe=recipe) == []
    other = "norm3" if written in ("norm2", "llava") else "norm2"
    recipe = {"questions": RECIPE["questions"] | {"boxes": other}}
    assert told("an answer is not the target") in check(whole(written), recipe=recipe)


def test_a_rule_is_told_once_with_the_count_and_three_ids(check):
    broken = [one("object_camera.far") | {"id": f"made/{n}", "flip_safe": False} for n in range(5)]
    ids = [f"made/{n}" for n in range(5)]
    assert check(*broken, WHOLE) == [told("flip_safe is not what the relations say", *ids)]


# -- the numbers of the boxes -------------------------------------------------------------------

BIT = {"bbox": 0.002, "center": 0.02, "dimensions": 0.02, "rotation": 0.02}
NUMBERS = [(n, f, k) for n in range(5) for f in BIT for k in range(len(room()[0][f]))]


def all_of(changed):
    """Rows under ids of their own, and what is told where each breaks a rule."""
    rows = [each | {"id": f"made/{n:03}"} for n, each in enumerate(changed)]
    return rows, [each["id"] for each in rows]


@pytest.mark.parametrize("field", BIT)
def test_each_number_of_each_box_counts(check, field):
    changed = []
    for number, _, place in (each for each in NUMBERS if each[1] == field):
        for change in (BIT[field], -BIT[field]):
            changed.append(copy.deepcopy(SECOND))
            changed[-1]["objects"][number][field][place] += change
    rows, ids = all_of(changed)
    assert len(rows) == {"bbox": 40, "rotation": 90}.get(field, 30)
    rule = "a rotation is none" if field == "rotation" else "a bbox is not where its box is seen"
    assert told(rule, *ids) in check(*rows, WHOLE)


def test_a_box_turned_by_two_degrees_is_found(check):
    changed = []
    for number, axis in itertools.product(range(5), ("yaw", "pitch", "roll")):
        changed.append(copy.deepcopy(SECOND))
        stored = changed[-1]["objects"][number]
        turned = turn(**{axis: math.radians(2)}) @ np.reshape(stored["rotation"], (3, 3))
        stored["rotation"] = turned.ravel().tolist()
    rows, ids = all_of(changed)
    assert check(*rows, WHOLE) == [told("a bbox is not where its box is seen", *ids)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(NUMBERS), st.floats(1, 200), st.booleans())
def test_no_noticeable_change_of_a_number_stays_unseen(check, which, times, is_less):
    number, field, place = which
    changed = copy.deepcopy(WHOLE)
    changed["objects"][number][field][place] += BIT[field] * (-times if is_less else times)
    assert check(changed) != []


def test_each_number_of_the_intrinsics_counts(check):
    changed = [SECOND | {"intrinsics": list(K)} for _ in K]
    for place, each in enumerate(changed):
        each["intrinsics"][place] += 0.5
    rows, ids = all_of(changed)
    found = check(*rows, WHOLE)
    fixed = [ids[n] for n in (3, 6, 7, 8)]
    assert told("the intrinsics are no camera's", *fixed) in found
    assert told("a bbox is not where its box is seen", *ids) in found


@pytest.mark.parametrize("side", ["width", "height"])
def test_the_size_of_the_image_counts(check, side):
    assert check(SECOND | {side: SECOND[side] + 1}) == [
        told("a bbox is not where its box is seen", "made/b")
    ]


def with_box(**changes):
    """A row with a box more, in no question."""
    return row(
        [*room(), box("car", [0, 0, 6], [1, 1, 1]) | changes],
        [question(room(), "object_camera.far", FAR_CHAIR)],
    )


def cut_car(x=-3.5, y=0.3, z=5.0, size=(1.5, 1.5, 2.0)):
    return box("car", [x, y, z], list(size))


@pytest.mark.parametrize(
    ("car", "edge"),
    [(cut_car(-3.3), 0), (cut_car(3.3), 2), (cut_car(0, -2.5), 1), (cut_car(0, 2.5), 3)],
)
def test_an_edge_at_the_border_may_be_cut_but_not_others(check, car, edge):
    border = 0.0 if edge < 2 else 1.0
    assert car["bbox"][edge] == border
    changed = [copy.deepcopy(car) for _ in range(4)]
    for place, moved in enumerate(changed):
        moved["bbox"][place] += 0.002 * (1 if border == 0.0 else -1)
    rows, ids = all_of(with_box(**each) for each in changed)
    assert check(with_box(**car), *rows) == [told("a bbox is not where its box is seen", *ids)]


@pytest.mark.parametrize("edge", range(4))
def test_an_edge_at_the_border_must_have_reason(check, edge):
    changed = copy.deepcopy(SECOND)
    changed["objects"][PLANT]["bbox"][edge] = 0.0 if edge < 2 else 1.0
    assert check(changed) == [told("a bbox is not where its box is seen", "made/b")]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rotation": [-1, 0, 0, 0, 1, 0, 0, 0, 1]}, "a rotation is none"),
        ({"rotation": [0.0] * 9}, "a rotation is none"),
        ({"dimensions": [0, 1, 1]}, "a box has no size"),
        ({"dimensions": [1, -1, 1]}, "a box has no size"),
        ({"center": [0, 0, 0.5]}, "a box is not before the camera"),
        ({"center": [0, 0, -6]}, "a box is not before the camera"),
        ({"bbox": [0.5, 0.4, 0.4, 0.6]}, "a bbox leaves the image or is empty"),
        ({"bbox": [0.4, 0.4, 0.6, 1.1]}, "a bbox leaves the image or is empty"),
        ({"bbox": [-0.1, 0.4, 0.6, 0.9]}, "a bbox leaves the image or is empty"),
    ],
)
def test_a_box_that_is_none_is_told(check, changes, rule):
    assert told(rule) in check(with_box(**changes))


def test_a_box_that_leaves_the_image_is_told_where_it_is_asked_for_too(check):
    boxes = room()
    boxes[FAR_CHAIR] = box("chair", [5.0, 0.3, 6.6], [0.5, 0.9, 2.6])
    asked = one("object_camera.far", boxes=boxes)
    assert check(asked) == []
    boxes[FAR_CHAIR]["bbox"][2] = 1.0005
    assert told("a bbox leaves the image or is empty") in check(asked)


def test_a_box_just_before_the_camera_is_sound(check):
    near = box("car", [0.0, 0.0, 0.1001], [0.1, 0.01, 0.01], np.eye(3))
    assert check(with_box(**near)) == []


# -- the relations ------------------------------------------------------------------------------


def relation(n=0, **values):
    return lambda r: r["relations"][n].update(values)


def message(n, old, new):
    def change(r):
        content = r["messages"][n]["content"]
        assert old in content
        r["messages"][n]["content"] = content.replace(old, new, 1)

    return change


def drop(key, place):
    return lambda r: r[key].pop(place)


def put(key, place, value):
    return lambda r: r[key].insert(place, value)


def category(number, name):
    return lambda r: r["objects"][number].update(category=name)


def digit(n):
    """Another last digit in the last box of a message."""

    def change(r):
        head, dot, tail = r["messages"][n]["content"].rpartition("]")
        r["messages"][n]["content"] = f"{head[:-1]}{(int(head[-1]) + 1) % 10}{dot}{tail}"

    return change


CANDIDATES = "the candidates are not all boxes of the class but the anchor"
NO_BOX = "a number is no box's"
ANSWER = "an answer is not the target"
PAIRS = "there are not as many pairs of messages as relations"
MUTATIONS = {
    "target": (relation(target=FAR_CHAIR), "another candidate is the closest or farthest"),
    "target of another class": (relation(target=LAMP), CANDIDATES),
    "target is the anchor": (relation(target=TABLE), "the target is no candidate"),
    "target out of range": (relation(target=5), NO_BOX),
    "target negative": (relation(target=-1), NO_BOX),
    "candidate missing": (relation(candidates=[NEAR_CHAIR]), CANDIDATES),
    "candidate extra": (relation(candidates=[1, 2, 3]), CANDIDATES),
    "candidates' order": (relation(candidates=[2, 1]), CANDIDATES),
    "candidate twice": (relation(candidates=[1, 2, 2]), CANDIDATES),
    "candidates empty": (relation(candidates=[]), CANDIDATES),
    "candidate out of range": (relation(candidates=[1, 99]), NO_BOX),
    "gap": (relation(gap=WHOLE["relations"][0]["gap"] + 0.01), "a gap is not the target's lead"),
    "gap's sign": (relation(gap=-WHOLE["relations"][0]["gap"]), "a gap is not the target's lead"),
    "gap not finite": (relation(gap=float("nan")), "a gap is not the target's lead"),
    "gap infinite": (relation(gap=float("inf")), "a gap is not the target's lead"),
    "anchor": (relation(anchor=LAMP), "a question names another class"),
    "anchor out of range": (relation(anchor=5), NO_BOX),
    "anchor below the camera": (relation(anchor=-2), NO_BOX),
    "anchor is the camera": (relation(anchor=-1), "an anchor is not of its family"),
    "camera's anchor": (relation(9, anchor=0), "an anchor is not of its family"),
    "relation": (relation(relation="behind"), "the relation does not hold for the target"),
    "relation unknown": (relation(relation="above"), "a family has no such relation"),
    "relation of the other family": (relation(relation="far"), "a family has no such relation"),
    "family": (relation(family="object_camera"), "an anchor is not of its family"),
    "family unknown": (relation(family="object"), "a family has no such relation"),
    "template": (
        relation(template_id="object_object.closest.box.02"),
        "a question is not its template's",
    ),
    "template of another relation": (
        relation(template_id=WHOLE["relations"][2]["template_id"]),
        "a template is another relation's",
    ),
    "template of another form": (
        relation(template_id=templates("object_object", "closest", "phrase")[0].id),
        ANSWER,
    ),
    "template unknown": (relation(template_id="x"), "there is no such template"),
    "category of the target": (category(NEAR_CHAIR, "stool"), CANDIDATES),
    "category of a rival": (category(FAR_CHAIR, "stool"), CANDIDATES),
    "category of a stranger": (category(PLANT, "chair"), CANDIDATES),
    "category of the anchor": (category(TABLE, "desk"), "a question names another class"),
    "a kind of the class": (category(PLANT, "arm chair"), "another class is a kind of the one asked for"),
    "answer's digit": (digit(1), ANSWER),
    "sentence's digit": (digit(3), ANSWER),
    "answer of words": (message(1, "[", "at ["), ANSWER),
    "answer of two boxes": (message(1, "]", "], [0.100, 0.100, 0.200, 0.200]"), ANSWER),
    "sentence with two boxes": (message(3, "]", "] or [0.100, 0.100, 0.200, 0.200]"), ANSWER),
    "sentence's words": (message(3, "chair", "stool"), ANSWER),
    "yes": (message(5, "Yes.", "No."), ANSWER),
    "no": (message(13, "No.", "Yes."), ANSWER),
    "yes without a stop": (message(5, "Yes.", "Yes"), ANSWER),
    "named box": (digit(12), "a question names the box of no candidate"),
    "anchor's box": (message(0, "[0.", "[1."), "a question gives another box for its anchor"),
    "anchor's box gone": (message(0, "]", ""), "a question is not its template's"),
    "anchor's box moved": (digit(0), "a question gives another box for its anchor"),
    "asked noun": (message(0, "chair", "stool"), "a question names another class"),
    "anchor's noun": (message(0, "table", "desk"), "a question names another class"),
    "question's words": (message(0, "closest", "next"), "a question is not its template's"),
    "flip_safe": (lambda r: r.update(flip_safe=True), "flip_safe is not what the relations say"),
    "flip_safe null": (lambda r: r.update(flip_safe=None), "flip_safe is not what the relations say"),
    "message dropped": (drop("messages", 21), PAIRS),
    "pair dropped": (lambda r: r.update(messages=r["messages"][:-2]), PAIRS),
    "relation dropped": (drop("relations", 10), PAIRS),
    "pair swapped": (
        lambda r: r.update(messages=[*r["messages"][:-4], *r["messages"][-2:], *r["messages"][-4:-2]]),
        "a question is not its template's",
    ),
    "roles": (lambda r: r["messages"][0].update(role="assistant"), "roles do not alternate"),
    "system": (put("messages", 0, {"role": "system", "content": "Hi."}), "roles do not alternate"),
    "no image": (message(0, "<image>\n", ""), "a conversation does not begin with <image>"),
    "image on the same line": (message(0, "\n", ""), "a conversation does not begin with <image>"),
    "two images": (message(2, "?", "? <image>"), "there is not exactly one <image>"),
    "image in capitals": (message(2, "?", "? <IMAGE>"), "there is not exactly one <image>"),
    "special token": (message(1, "]", "]<|im_end|>"), "a special token or role label was left in"),
    "role label": (message(2, "?", "?\nUSER: hi"), "a special token or role label was left in"),
    "source": (lambda r: r.update(source="mad"), "an id does not begin with its source"),
    "id": (lambda r: r.update(id="a"), "an id does not begin with its source"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_row_is_told(check, name):
    change, rule = MUTATIONS[name]
    changed = copy.deepcopy(WHOLE)
    change(changed)
    assert told(rule, changed["id"]) in check(changed, SECOND)


@pytest.mark.parametrize("number", range(len(RELATIONS)))
def test_the_other_candidate_is_never_the_target(check, number):
    changed = copy.deepcopy(WHOLE)
    entry = changed["relations"][number]
    entry["target"] = next(c for c in entry["candidates"] if c != entry["target"])
    assert len(check(changed)) >= 2  # the relation, and the words


def moved(number, center):
    boxes = room()
    boxes[number] = box(boxes[number]["category"], center, boxes[number]["dimensions"])
    return boxes


SECOND_HOLDER = "the relation holds for another candidate too"
DOUBTFUL = "another candidate comes near"
RIVALS = {  # where the other candidate goes, and what that makes of it
    "in_front_of": ([1.6, 0.3, 4.1], SECOND_HOLDER, [1.6, 0.3, 5.1], [1.6, 0.3, 5.3]),
    "behind": ([-1.2, 0.3, 6.8], SECOND_HOLDER, [-1.2, 0.3, 5.3], [-1.2, 0.3, 5.1]),
    "left_of": ([-1.6, 0.3, 6.6], SECOND_HOLDER, [-0.1, 0.3, 6.6], [0.1, 0.3, 6.6]),
    "right_of": ([1.1, 0.3, 4.0], SECOND_HOLDER, [0.1, 0.3, 4.0], [-0.1, 0.3, 4.0]),
    "close": ([1.6, 0.3, 4.4], SECOND_HOLDER, [1.6, 0.3, 4.6], [1.6, 0.3, 4.8]),
    "far": ([-1.2, 0.3, 6.1], SECOND_HOLDER, [-1.2, 0.3, 5.9], [-1.2, 0.3, 5.7]),
    "left": ([-1.6, 0.3, 6.6], SECOND_HOLDER, [-0.1, 0.3, 6.6], [0.1, 0.3, 6.6]),
    "right": ([1.1, 0.3, 4.0], SECOND_HOLDER, [0.1, 0.3, 4.0], [-0.1, 0.3, 4.0]),
}


@pytest.mark.parametrize("relation", RIVALS)
def test_a_rival_must_not_come_near(check, relation):
    holds, rule, near, away = RIVALS[relation]
    name = next(each for each in RELATIONS if each.endswith(f".{relation}"))
    rival = NEAR_CHAIR + FAR_CHAIR - TARGETS[name]
    lenient = RECIPE | {"relations": {"mode": "lenient"}}
    second = one(name, boxes=moved(rival, holds))
    assert check(second) == check(second, recipe=lenient) == [told(rule)]
    doubtful = one(name, boxes=moved(rival, near))
    assert check(doubtful) == [told(DOUBTFUL)]
    assert check(doubtful, recipe=lenient) == []
    assert check(one(name, boxes=moved(rival, away))) == []


@pytest.mark.parametrize(
    ("name", "center"),
    [
        ("object_object.in_front_of", [-1.2, 0.3, 4.7]),  # ranges of depth overlap
        ("object_object.in_front_of", [-1.2, 0.3, 5.1]),  # less than the margin
        ("object_object.behind", [1.6, 0.3, 5.8]),
        ("object_object.left_of", [-0.7, 0.3, 4.0]),  # overlap in the image
        ("object_object.right_of", [0.7, 0.3, 6.6]),
        ("object_camera.close", [-1.2, 0.3, 4.6]),
        ("object_camera.far", [1.6, 0.3, 5.9]),
        ("object_camera.left", [-0.2, 0.3, 4.0]),  # within the dead zone
        ("object_camera.right", [0.3, 0.3, 6.6]),
    ],
)
def test_the_relation_must_hold_for_the_target(check, name, center):
    rule = told("the relation does not hold for the target")
    assert rule in check(one(name, boxes=moved(TARGETS[name], center)))


def at_distance(away):
    """Two chairs, the nearer 2 m from the table."""
    boxes = room()
    x, y, z = boxes[TABLE]["center"]
    boxes[NEAR_CHAIR] = box("chair", [x - 2.0, y, z], [0.5, 0.9, 0.6])
    boxes[FAR_CHAIR] = box("chair", [x + away, y, z], [0.5, 0.9, 0.6])
    return boxes


@pytest.mark.parametrize(("away", "is_sound"), [(2.23, True), (2.21, False), (2.05, False)])
def test_a_superlative_is_won_by_a_share_of_the_greater_distance(check, away, is_sound):
    found = check(one("object_object.closest", boxes=at_distance(away)))
    assert found == ([] if is_sound else [told(DOUBTFUL)])


@pytest.mark.parametrize(("least", "is_sound"), [(0.22, True), (0.24, False)])
def test_a_superlative_is_won_by_metres(check, least, is_sound):
    recipe = RECIPE | {"relations": {"min_gap_m": least}}
    found = check(one("object_object.closest", boxes=at_distance(2.23)), recipe=recipe)
    assert found == ([] if is_sound else [told(DOUBTFUL)])


def lone(name):
    boxes = room()
    boxes[NEAR_CHAIR]["category"] = "stool"
    return one(name, FAR_CHAIR, boxes=boxes)


@pytest.mark.parametrize(
    "name", ["object_object.behind", "object_object.right_of", "object_camera.far"]
)
def test_the_only_candidate_leads_by_its_own_score(check, name):
    alone = lone(name)
    assert check(alone) == []
    alone["relations"][0]["gap"] *= -1
    assert check(alone) == [told("a gap is not the target's lead")]


@pytest.mark.parametrize("name", ["object_camera.farthest", "object_camera.closest"])
def test_a_superlative_needs_candidates(check, name):
    alone = lone(name)
    assert check(alone) == [told("there are too few candidates for a superlative")]
    recipe = RECIPE | {"relations": {"min_superlative_candidates": 1}}
    assert check(alone, recipe=recipe) == []


@pytest.mark.parametrize(
    "told_of", [{}, {"source": "other"}, {"source": "made", "close_below_m": None}]
)
def test_close_and_far_need_the_thresholds_of_the_source(check, told_of):
    found = check(one("object_camera.close"), sources=[told_of])
    assert found == [told("the manifest has no close and far of the source")]


def test_thresholds_are_those_of_the_rows_source(check):
    other = {"source": "made", "close_below_m": 3.9, "far_above_m": 6.0}
    found = check(one("object_camera.close"), sources=[other])
    assert told("the relation does not hold for the target") in found


# -- the recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("questions", "rule"),
    [
        ({"per_image": 10}, "there are more questions than the recipe's per_image"),
        ({"balance": {"object_camera.far": 1}}, "a relation has no share in the recipe"),
        ({"forms": {"box": 1, "phrase": 1}}, "a form of answer has no share in the recipe"),
    ],
)
def test_what_the_recipe_leaves_out_is_not_asked(check, questions, rule):
    recipe = {"questions": RECIPE["questions"] | questions}
    assert told(rule) in check(WHOLE, recipe=recipe)


@pytest.mark.parametrize("least", ["min_width", "min_height"])
def test_a_question_is_about_boxes_that_can_be_seen(check, least):
    recipe = RECIPE | {"objects": {least: 0.99}}
    assert told("a question is about a box that is too small") in check(WHOLE, recipe=recipe)


def test_a_question_is_about_boxes_that_can_be_told_apart(check):
    boxes = room()
    chair = boxes[FAR_CHAIR]
    beside = np.add(chair["center"], [0.01, 0.0, 0.05])
    boxes.append(box("chair", beside, chair["dimensions"], chair["rotation"]))
    asked = one("object_object.behind", LAMP, boxes=boxes, anchor=FAR_CHAIR)
    assert check(asked) == [told("a question is about a box that another of its class covers")]
    assert check(asked, recipe=RECIPE | {"objects": {"max_same_class_iou": 1.0}}) == []


@pytest.mark.parametrize("number", [0, 1])  # in the same words, and in others
def test_a_question_is_asked_once(check, number):
    boxes = room()
    asked = [question(boxes, "object_camera.far", FAR_CHAIR, number=n) for n in (0, number)]
    assert check(row(boxes, asked)) == [told("a question is asked twice")]


def test_a_yes_no_question_may_name_each_candidate(check):
    boxes = room()
    named = [question(boxes, "object_camera.far", FAR_CHAIR, "yes_no", named=n) for n in (1, 2)]
    assert check(row(boxes, named)) == []


def test_an_anchor_without_its_box_must_be_alone(check):
    def bare(r):
        entry, content = r["relations"][0], r["messages"][0]["content"]
        text = CONVENTIONS["norm3"].render(r["objects"][entry["anchor"]]["bbox"])
        r["messages"][0]["content"] = content.replace(f" {text}", "")
        return r

    unique = RECIPE | {"relations": {"anchors": "unique"}}
    boxes = room()
    two_tables = room()
    two_tables[PLANT]["category"] = "table"
    first, second = (bare(one("object_object.behind", boxes=b)) for b in (boxes, two_tables))
    assert check(first, recipe=unique) == []
    assert check(first) == [told("a question gives no box for its anchor")]
    assert check(second, recipe=unique) == [
        told("a question's anchor could be another of its class")
    ]


@pytest.mark.parametrize(
    "recipe", [{"relations": {"mode": "loose"}}, {"questions": {"boxes": "x"}}, {"relations": 3}]
)
def test_a_broken_recipe_is_told(check, recipe):
    (found,) = check(WHOLE, recipe=recipe)
    assert found.startswith("recipe: ")
    assert found.endswith("no row could be checked")


def test_a_missing_config_is_told(check):
    assert check(WHOLE, configs=["default"]) == ["default-rejects: the config is missing"]


# -- the distance of boxes ----------------------------------------------------------------------


def distance(*pair):
    center, half, rotation = (np.array([each[n] for each in pair], float) for n in range(3))
    blank = np.zeros((2, 4))
    boxes = Boxes(blank, center, half, rotation, np.stack([np.eye(3)] * 2), blank[:, :2])
    (found,) = distances_m(boxes, np.array([0]), np.array([1]))
    return float(found)


UPRIGHT, EDGE_ON = np.eye(3), turn(yaw=math.pi / 4)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (([5, 0, 0], [1, 1, 1], UPRIGHT), 3.0),  # face to face
        (([5, 0, 0], [1, 1, 1], EDGE_ON), 4 - math.sqrt(2)),  # edge to face
        (([5, 6, 0], [1, 1, 1], UPRIGHT), 5.0),  # edge to edge, parallel
        (([4, 4, 4], [1, 1, 1], UPRIGHT), 2 * math.sqrt(3)),  # corner to corner
        (([4, 2.5, 0], [1, 0.5, 1], UPRIGHT), math.sqrt(5)),
        (([0.5, 0.5, 0.5], [1, 1, 1], EDGE_ON), 0.0),
        (([0, 0, 0], [0.1, 0.1, 0.1], EDGE_ON), 0.0),  # within
        (([2, 0, 0], [1, 1, 1], UPRIGHT), 0.0),  # touching
        (([300, 0, 0], [1, 1, 1], EDGE_ON), 299 - math.sqrt(2)),
        (([3, 0, 0], [1e-4, 50, 1e-4], UPRIGHT), 2 - 1e-4),
    ],
)
def test_the_distance_of_two_boxes(second, expected):
    first = ([0, 0, 0], [1, 1, 1], UPRIGHT)
    assert distance(first, second) == pytest.approx(expected, abs=2e-6)
    assert distance(second, first) == pytest.approx(expected, abs=2e-6)


def test_the_distance_of_crossing_edges():
    first = ([0, 0, 0], [1, 1, 1], turn(roll=math.pi / 4))
    second = ([0, 6, 0], [1, 1, 1], turn(pitch=math.pi / 4))
    assert distance(first, second) == pytest.approx(6 - 2 * math.sqrt(2), abs=2e-6)


def test_the_distance_of_boxes_is_that_of_their_corners_and_edges():
    draw = np.random.default_rng(0)
    count = 200
    center = draw.normal(size=(2 * count, 3)) * np.repeat([2.0, 8.0], count)[:, None]
    dimensions = draw.uniform(0.05, 5, (2 * count, 3))
    rotation = np.stack([turn(*angles) for angles in draw.uniform(-3, 3, (2 * count, 3))])
    blank = np.zeros((2 * count, 4))
    boxes = Boxes(blank, center, dimensions[:, ::-1] / 2, rotation, rotation, blank[:, :2])
    first, second = np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2)
    sides = [(center[n], dimensions[n], rotation[n]) for n in (first, second)]
    expected = gaps(*sides)
    assert 20 < (expected == 0).sum() < 120
    assert distances_m(boxes, first, second) == pytest.approx(expected, abs=2e-6)


def test_closest_by_gap_is_not_closest_by_centre(check):
    boxes = room()
    boxes[TABLE] = box("table", [0, 0.4, 5], [0.6, 0.7, 1.0], UPRIGHT)
    boxes[NEAR_CHAIR] = box("chair", [-1.5, 0.4, 5], [0.5, 0.9, 0.5], UPRIGHT)
    boxes[FAR_CHAIR] = box(
        "chair", [1.8, 0.4, 5], [0.5, 0.9, 2.0], UPRIGHT
    )  # 0.3 m away, the other 0.75
    by_gap = RECIPE | {"relations": {"closest_by": "gap"}}
    by_center = one("object_object.closest", NEAR_CHAIR, boxes=boxes)
    assert check(by_center) == []
    assert told("another candidate is the closest or farthest") in check(by_center, recipe=by_gap)
    near = one("object_object.closest", FAR_CHAIR, boxes=boxes)
    near["relations"][0]["gap"] = 0.45
    assert check(near, recipe=by_gap) == []
    near["relations"][0]["gap"] = 0.46
    assert check(near, recipe=by_gap) == [told("a gap is not the target's lead")]


# -- rejects, ids, broken rows ------------------------------------------------------------------


def reject(name="made/r", place=None, reason="no_camera"):
    return {"id": name, "source": "made", "object": place, "reject_reason": reason}


@pytest.mark.parametrize(
    ("entry", "rule", "name"),
    [
        (reject(reason=None), "a reject has no reason", "made/r"),
        (reject(reason=" "), "a reject has no reason", "made/r"),
        (reject(place=-1), "an object has a negative number", "made/r"),
        (reject("made/a"), "a rejected scene is a row all the same", "made/a"),
    ],
)
def test_a_broken_reject_is_told(check, entry, rule, name):
    found = check(WHOLE, rejects=[reject(), reject("made/a", 3), entry])
    assert found == [f"default-rejects: {rule}: 1 rows, such as {name}"]


def test_an_id_stands_once(check):
    assert check(WHOLE, WHOLE, SECOND) == [told("an id stands twice")]


def hole(*path, value=None):
    """Something else at a place of the row."""

    def change(r):
        for key in path[:-1]:
            r = r[key]
        r[path[-1]] = value

    return change


LACKING = "an id, source, size, camera or box is missing or not finite"
UNTOLD = "a relation or a message is missing"
PARTS = ("bbox", "center", "dimensions", "rotation")
HOLES = {
    **{name: (hole(name), LACKING) for name in ("id", "source", "width", "height", "intrinsics")},
    **{f"{name} null": (hole("objects", 2, name), LACKING) for name in (*PARTS, "category")},
    **{f"{n} holds null": (hole("objects", 2, n, 1), LACKING) for n in PARTS},
    **{f"{n} NaN": (hole("objects", 4, n, 0, value=math.nan), LACKING) for n in PARTS},
    **{f"{n} infinite": (hole("objects", 4, n, 0, value=math.inf), LACKING) for n in PARTS},
    "center huge": (hole("objects", 4, "center", 0, value=3e38), "a bbox is not where its box is seen"),
    "rotation huge": (hole("objects", 4, "rotation", 0, value=3e38), "a rotation is none"),
    "intrinsics NaN": (hole("intrinsics", 0, value=math.nan), LACKING),
    "intrinsics null": (hole("intrinsics", 8), LACKING),
    "intrinsics zero": (hole("intrinsics", value=[0.0] * 9), "the intrinsics are no camera's"),
    "focal length negative": (hole("intrinsics", 0, value=-500.0), "the intrinsics are no camera's"),
    "width 0": (hole("width", value=0), LACKING),
    "height negative": (hole("height", value=-480), LACKING),
    "id empty": (hole("id", value=""), LACKING),
    "category empty": (hole("objects", 2, "category", value=""), LACKING),
    "object null": (hole("objects", 4), LACKING),
    "objects null": (hole("objects"), LACKING),
    "objects empty": (hole("objects", value=[]), LACKING),
    "relations null": (hole("relations"), UNTOLD),
    "relations empty": (hole("relations", value=[]), UNTOLD),
    "relation null": (hole("relations", 3), UNTOLD),
    **{f"{n} null": (hole("relations", 3, n), UNTOLD) for n in WHOLE["relations"][0]},
    "candidate null": (hole("relations", 3, "candidates", 0), UNTOLD),
    "messages null": (hole("messages"), PAIRS),
    "messages empty": (hole("messages", value=[]), PAIRS),
    "message null": (hole("messages", 3), UNTOLD),
    "role null": (hole("messages", 3, "role"), UNTOLD),
    "content null": (hole("messages", 3, "content"), UNTOLD),
    "content empty": (hole("messages", 3, "content", value=""), ANSWER),
    "content of braces": (hole("messages", 2, "content", value="{%s}%d\\1" * 9), "a question is not its template's"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.filterwarnings("error")
def test_a_broken_row_is_told_and_the_others_are_checked(check, name):
    change, rule = HOLES[name]
    broken = copy.deepcopy(WHOLE) | {"intrinsics": list(K)}
    change(broken)
    changed = copy.deepcopy(SECOND) | {"flip_safe": False}
    found = check(WHOLE | {"id": "made/0"}, broken, changed)
    assert told(rule, str(broken["id"])) in found
    assert told("flip_safe is not what the relations say", "made/b") in found


def test_no_row_at_all_is_no_problem_of_rows(check):
    assert check() == []

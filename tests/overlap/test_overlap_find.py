import pyarrow as pa
import pytest
from overlap_making import ALTERED, chart, jpeg, page, photo, png, row, signed, table
from PIL import Image

from vila2data.errors import BadInput
from vila2data.overlap.candidates import PER_IMAGE
from vila2data.overlap.find import PAIRS, PairRules, find_pairs

BYTES = PairRules(max_distance=None)
LONG = ("Where does the train go from here?", "It goes to the sea and comes back at night.")


def found(pairs, *columns):
    names = columns or ("left_id", "right_id", "kind")
    return [tuple(pair[name] for name in names) for pair in pairs.to_pylist()]


def test_a_pair_tells_all_of_itself():
    image = png(photo(1))
    left = table(row("a", [png(photo(9)), image], ["What?", "That."], source="blend"))
    right = table(row("b", [image], ["what", "Another."], source="test set"))
    pairs = find_pairs(left, right, rules=BYTES)
    assert pairs.schema == PAIRS
    assert pairs.to_pylist() == [
        {
            "left_id": "a",
            "left_source": "blend",
            "left_image": 1,
            "right_id": "b",
            "right_source": "test set",
            "right_image": 0,
            "kind": "image",
            "distance": 0,
            "score": 1.0,
            "same_question": True,
            "same_text": False,
        }
    ]


def test_planted_copies_are_found_and_nothing_else():
    pictures = {f"photo {n}": photo(n) for n in range(7)}
    pictures |= {f"page {n}": page(n) for n in range(4)} | {
        f"chart {n}": chart(n) for n in range(3)
    }
    ways = list(ALTERED.values())
    leaks = {n: ways[k % len(ways)](p) for k, (n, p) in enumerate(pictures.items())}
    clean = {f"clean photo {n}": png(photo(100 + n)) for n in range(5)}
    clean |= {f"clean page {n}": png(page(100 + n)) for n in range(2)}
    clean |= {"a line differs": png(page(1, other_line=20)), "clean chart": png(chart(100))}
    left, ours = signed(leaks | clean)
    right, theirs = signed({n: png(p) for n, p in pictures.items()}, views=True)
    pairs = find_pairs(left, right, rules=PairRules(), left_images=ours, right_images=theirs)
    assert found(pairs) == [(name, name, "near_image") for name in pictures]
    assert min(pairs["score"].to_pylist()) >= 0.75
    assert max(pairs["distance"].to_pylist()) <= 8


@pytest.mark.shared
def test_of_real_photos_every_copy_is_found_and_no_other(shared_data):
    files = sorted((shared_data / "captions" / "coco" / "images").iterdir())
    assert len(files) == 40
    ways = list(ALTERED.values())
    photos = [Image.open(file).convert("RGB") for file in files]
    copies = {f"{n}": ways[n % len(ways)](p) for n, p in enumerate(photos)}
    left, ours = signed(copies)
    known = [n for n in range(40) if n % 3]
    right, theirs = signed({f"{n}": files[n].read_bytes() for n in known}, views=True)
    pairs = find_pairs(left, right, rules=PairRules(), left_images=ours, right_images=theirs)
    assert found(pairs) == [(f"{n}", f"{n}", "near_image") for n in known]


def test_an_image_that_thousands_share_makes_a_pair_for_each_row_alone():
    record = row("0", [png(photo(1))], ["What?", "That."])[0]
    rows = table(*([record | {"id": str(n)}] for n in range(20_000)))
    pairs = find_pairs(rows, rows, rules=BYTES)
    assert pairs["right_id"].to_pylist() == ["0"] * 20_000
    within = find_pairs(rows, None, rules=BYTES)
    assert within["left_id"].to_pylist() == [str(n) for n in range(1, 20_000)]
    assert set(within["right_id"].to_pylist()) == {"0"}


def test_of_the_images_that_share_a_hash_only_some_are_looked_at(caplog):
    record = row("0", [png(photo(1))])[0]
    rows = table(*([record | {"id": str(n), "sha256": f"{n:064}"}] for n in range(300)))
    asked = []

    def gone(name, number):
        asked.append(name)

    pairs = find_pairs(
        rows,
        rows,
        rules=PairRules(workers=1),
        left_images=lambda *_: png(photo(2, 8, 8)),
        right_images=gone,
    )
    assert set(pairs["kind"].to_pylist()) == {"image"}
    assert asked == [str(n) for n in range(PER_IMAGE)]
    assert "300 images have 32 candidates or more" in caplog.text


def test_within_a_table_the_right_row_is_the_earlier_one():
    images = {n: png(photo(i)) for i, n in enumerate("abc")}
    images["d"] = jpeg(photo(1), 50)
    rows, content = signed(images, views=True)
    pairs = find_pairs(rows, None, rules=PairRules(), left_images=content)
    assert found(pairs) == [("d", "b", "near_image")]


def test_within_a_table_no_later_row_is_better_for_its_question():
    one, near = png(photo(1)), jpeg(photo(1), 50)
    rows = table(
        row("a", [one], ["Who?", "I"], views=True),
        row("b", [near], ["Where?", "Here"], views=True),
        row("c", [one], ["Where?", "Here"], views=True),
    )
    content = {"a": one, "b": near, "c": one}
    pairs = find_pairs(rows, None, rules=PairRules(), left_images=lambda name, _: content[name])
    assert found(pairs) == [("b", "a", "near_image"), ("c", "a", "image")]


def test_a_row_is_no_pair_with_itself():
    image = png(photo(1))
    rows = table(row("a", [image, image], LONG), row("b", [png(photo(2))], LONG))
    assert found(find_pairs(rows, None, rules=BYTES)) == [("b", "a", "text")]


def test_a_pair_with_the_same_question_is_better_than_a_nearer_one():
    near, exact = png(photo(1)), jpeg(photo(1), 50)
    left = table(row("a", [exact], ["What is it?", "A hill"]))
    right = table(
        row("other", [near], ["Where?", "Here"], views=True),
        row("same", [near], ["what is it", "Sand"], views=True),
        row("text", [near], ["What is it", "a hill."], views=True),
    )
    content = {"a": exact, "other": near, "same": near, "text": near}
    pairs = find_pairs(
        left,
        right,
        rules=PairRules(),
        left_images=lambda name, _: content[name],
        right_images=lambda name, _: content[name],
    )
    columns = ("right_id", "kind", "same_question", "same_text")
    assert found(pairs, *columns) == [("same", "near_image", True, False)]


def test_each_image_of_a_row_has_its_pair():
    one, two = png(photo(1)), png(photo(2))
    pairs = find_pairs(
        table(row("a", [one, two])), table(row("x", [two]), row("y", [one])), rules=BYTES
    )
    assert found(pairs, "left_image", "right_id") == [(0, "y"), (1, "x")]


@pytest.mark.parametrize(
    ("texts", "count"),
    [(LONG, 1), (("What color is it?", "red"), 0), (("Is it red? " * 9, "yes"), 1)],
)
def test_a_text_is_a_pair_where_it_says_enough(texts, count):
    left, right = table(row("a", [], texts)), table(row("b", [png(photo(1))], texts))
    pairs = find_pairs(left, right, rules=BYTES)
    assert (
        found(pairs, "right_id", "kind", "left_image", "distance")
        == [("b", "text", None, None)] * count
    )
    assert len(find_pairs(left, right, rules=PairRules(max_distance=None, min_words=1))) == 1
    assert len(find_pairs(left, right, rules=PairRules(max_distance=None, text=False))) == 0


def test_texts_on_any_record_of_a_row_make_one_pair():
    keys = row("a", [], LONG)[0]
    rows = [keys | {"image": n, "sha256": f"{n:064}", "phash": None} for n in range(3)]
    assert found(find_pairs(table(rows), table(row("b", [], LONG)), rules=BYTES)) == [
        ("a", "b", "text")
    ]


def test_pictures_without_content_are_pairs_by_their_bytes_alone():
    white, png_white = (
        jpeg(Image.new("RGB", (80, 80), "white")),
        png(Image.new("RGB", (80, 80), "white")),
    )
    left, ours = signed({"a": white})
    right, theirs = signed({"b": png_white, "c": white}, views=True)
    pairs = find_pairs(left, right, rules=PairRules(), left_images=ours, right_images=theirs)
    assert found(pairs) == [("a", "c", "image")]


def test_images_that_are_gone_or_broken_are_no_pairs():
    left, _ = signed({"a": jpeg(photo(1), 50), "b": jpeg(photo(2), 50)})
    right, theirs = signed({"x": png(photo(1)), "y": png(photo(2))}, views=True)
    broken = {"a": None, "b": b"no image"}
    pairs = find_pairs(
        left, right, rules=PairRules(), left_images=lambda n, _: broken[n], right_images=theirs
    )
    assert len(pairs) == 0


def test_empty_tables_have_no_pairs():
    empty, full = table(), table(row("a", [png(photo(1))], LONG))
    content = lambda *_: png(photo(1))  # noqa: E731
    for left, right in ((empty, full), (full, empty), (empty, None), (full, None)):
        pairs = find_pairs(
            left, right, rules=PairRules(), left_images=content, right_images=content
        )
        assert (len(pairs), pairs.schema) == (0, PAIRS)


def test_the_threads_do_not_change_the_pairs():
    left, ours = signed({f"{n}": jpeg(photo(n), 60) for n in range(12)})
    right, theirs = signed({f"{n}": png(photo(n)) for n in range(12)}, views=True)
    pairs = [
        find_pairs(
            left, right, rules=PairRules(workers=workers), left_images=ours, right_images=theirs
        )
        for workers in (1, 4)
    ]
    assert pairs[0].equals(pairs[1])
    assert len(pairs[0]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_distance": 17}, "max_distance: is 17, must be 0 to 16"),
        ({"min_score": 0}, "min_score: is 0, must be above 0 and at most 1"),
    ],
)
def test_rules_out_of_range_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        PairRules(**options)


def test_tables_of_another_form_are_refused():
    rows = table(row("a", []))
    with pytest.raises(BadInput, match="left: has no column 'views'"):
        find_pairs(rows.drop_columns(["views"]), rows, rules=BYTES)
    odd = rows.set_column(rows.column_names.index("phash"), "phash", pa.array(["no hash"]))
    with pytest.raises(BadInput, match="right: columns are not those of signatures"):
        find_pairs(rows, odd, rules=BYTES)
    with pytest.raises(BadInput, match="left_images: is missing"):
        find_pairs(rows, rows, rules=PairRules())

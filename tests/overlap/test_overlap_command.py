import json

import pyarrow.parquet as pq
import pytest
from export_making import instruct_row, write_fake_build
from overlap_making import cropped, jpeg, photo, png

from vila2data.errors import BadInput, BuildError
from vila2data.overlap.command import overlap_command

LONG = ("Where does the train go from here?", "It goes to the sea and comes back at night.")


@pytest.fixture
def builds(tmp_path):
    held_out = [
        instruct_row(f"test/{n}", "<image>\nWhat is it?", "A hill.", images=[png(photo(n))])
        for n in range(5)
    ]
    held_out.append(instruct_row("test/text", *LONG))
    crop = jpeg(cropped(photo(1), 0.05, 0, 0, 0.05), 60)
    blend = [
        instruct_row("blend/<b>exact", "<image>\nWhat is it?", "A hill", images=[png(photo(0))]),
        instruct_row("blend/crop", "<image>\nWho?", "No one", images=[crop]),
        instruct_row("blend/clean", "<image>\nWhat is it?", "A hill", images=[png(photo(90))]),
        instruct_row("blend/text", "Hi", "Hello", LONG[0].upper(), LONG[1]),
        instruct_row("blend/broken", "<image>\nWho?", "No one", images=[b"no image"]),
    ]
    return (
        write_fake_build(tmp_path / "blend", blend, rows_per_file=2),
        write_fake_build(tmp_path / "test", held_out, data_set="sft-blend", rows_per_file=4),
    )


def test_json_names_every_pair(builds, capsys):
    blend, held_out = builds
    assert overlap_command(blend, [held_out], out=None, as_json=True) == 3
    told = json.loads(capsys.readouterr().out)["comparisons"]
    assert len(told) == 1
    assert (told[0]["left"], told[0]["right"]) == (
        "llava-instruct 1.0.0 default",
        "sft-blend 1.0.0 default",
    )
    assert told[0]["rows"] == 3
    assert told[0]["kinds"] == {"image": 1, "near_image": 1, "text": 1}
    assert told[0]["not_compared"] == [
        {"build": "llava-instruct 1.0.0 default", "reason": "image_undecodable", "count": 1}
    ]
    assert [(p["left_id"], p["right_id"], p["kind"]) for p in told[0]["pairs"]] == [
        ("blend/<b>exact", "test/0", "image"),
        ("blend/crop", "test/1", "near_image"),
        ("blend/text", "test/text", "text"),
    ]


def test_the_page_shows_pairs_side_by_side_and_loads_nothing(builds, tmp_path, capsys):
    blend, held_out = builds
    out = tmp_path / "pages" / "pairs.html"
    assert overlap_command(blend, [held_out, blend], out=out, samples=1) == 3 + 4
    page = out.read_text()
    assert page.count("<img ") == 2 * 2 + 2
    assert "blend/&lt;b&gt;exact" in page
    assert "<b>exact" not in page
    assert "Rows in pairs with <bdi>sft-blend 1.0.0 default</bdi>: 3" in page
    assert page.count("2 more pairs are not shown.") == 1
    assert page.count("in both") >= 4
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert f"wrote {out}" in capsys.readouterr().out


def test_turns_that_both_rows_have_stand_first(builds, tmp_path):
    blend, held_out = builds
    overlap_command(blend, [held_out], out=tmp_path / "pairs.html")
    texts = (tmp_path / "pairs.html").read_text().partition("Same text: 1 pair")[2]
    assert 0 < texts.index(LONG[0].upper()) < texts.index("Hello")


def test_rows_are_found_again_in_row_groups_of_any_size(builds, capsys):
    blend, held_out = builds
    for file in blend.rglob("*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=1)
    assert overlap_command(blend, [held_out], out=None, as_json=True) == 3
    pairs = json.loads(capsys.readouterr().out)["comparisons"][0]["pairs"]
    assert [pair["kind"] for pair in pairs] == ["image", "near_image", "text"]


def test_a_build_is_compared_with_itself_where_no_other_is_given(builds, capsys):
    rows = [
        instruct_row("a", "<image>\nWhat?", "It", images=[png(photo(1))]),
        instruct_row("b", "<image>\nWhere?", "There", images=[jpeg(photo(1), 50)]),
    ]
    build = write_fake_build(builds[0].parent / "twice", rows)
    assert overlap_command(build, [], out=None) == 1
    assert "rows in pairs with itself: 1" in capsys.readouterr().out


def test_bytes_alone_are_compared_where_no_distance_is_given(builds, capsys):
    blend, held_out = builds
    assert overlap_command(blend, [held_out], out=None, max_distance=None, as_json=True) == 2
    kinds = json.loads(capsys.readouterr().out)["comparisons"][0]["kinds"]
    assert kinds == {"image": 1, "text": 1}


def test_the_same_builds_give_the_same_page(builds, tmp_path):
    blend, held_out = builds
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        overlap_command(blend, [held_out], out=page)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_what_cannot_be_compared_is_refused(builds, tmp_path):
    blend, held_out = builds
    with pytest.raises(BadInput, match="is a folder; give the name of a file"):
        overlap_command(blend, [held_out], out=tmp_path)
    with pytest.raises(BuildError, match="is no build"):
        overlap_command(tmp_path, [], out=None)
    with pytest.raises(BadInput, match="config 'other': is not there"):
        overlap_command(blend, [held_out], out=None, config="other")

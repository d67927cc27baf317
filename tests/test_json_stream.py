"""Records of JSON files, wherever in them they stand."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data import json_stream
from vila2data.errors import BadInput
from vila2data.json_stream import records

ROWS = [{"a": 1}, {"a": "]}"}, [2], None]


def read(text: str, at: str) -> list:
    return list(records(io.BytesIO(text.encode()), "set.json", at))


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=5))
def test_records_are_those_that_the_parser_of_the_whole_file_finds(rows: list) -> None:
    assert read(json.dumps(rows), "") == rows
    assert read(json.dumps({"info": {"data": 1}, "data": rows, "end": [0]}), "data") == rows


def test_an_object_of_records_gives_each_its_key() -> None:
    text = '{"b": {"x": [1, 2]}, "a": {"x": 3}, "c": 4, "b": {}}'
    assert read(text, "*") == [{"x": [1, 2], "_key": "b"}, {"x": 3, "_key": "a"}, 4, {"_key": "b"}]


@pytest.mark.parametrize(
    ("text", "at", "fault"),
    [
        ("{}", "", r"set\.json: is not readable as JSON: expected \[ at about character 0"),
        ("[]", "*", r"expected \{ at about character 0"),
        ("[1, 2", "", r"expected , or \] at about character 5, the file ends at 5"),
        ("[1] 2", "", r"expected the end of the file at about character 4"),
        ('{"data": 1}', "data", r"set\.json: has no array 'data'"),
        ('{"rows": []}', "data", r"set\.json: has no array 'data'"),
    ],
)
def test_what_is_no_such_file_is_refused_with_the_place(text: str, at: str, fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        read(text, at)


@pytest.mark.parametrize("chunk", [1, 7])
def test_records_may_end_anywhere_in_what_is_read(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", chunk)
    assert read(json.dumps(ROWS), "") == ROWS
    assert read(json.dumps({"x": 0, "rows": ROWS}), "rows") == ROWS

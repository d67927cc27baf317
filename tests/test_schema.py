import pyarrow as pa
import pytest
from datasets import Features, Value

from vila2data.errors import BadInput, SchemaMismatch
from vila2data.schema import CAPTION, QUALITY, REJECT, check_table, data_sets, features_of

DATA_SETS = [
    ("coyo-recap", "original"),
    ("coyo-recap", "round1"),
    ("coyo-recap", "round12-rejects"),
    ("coyo-recap", "spatial"),
    ("coyo-recap", "conversations"),
    ("spatial-relation-qa", "default"),
    ("grounded-narration", "short"),
    ("grounded-narration", "long"),
    ("ocr-blend", "docvqa"),
    ("llava-instruct", "default"),
    ("sft-blend", "default"),
    ("scenes", "train"),
]


@pytest.mark.parametrize(("data_set", "config"), DATA_SETS)
def test_every_published_table_has_features_that_arrow_can_hold(data_set: str, config: str) -> None:
    for features in features_of(data_set, config):
        empty = pa.Table.from_pylist([], schema=features.arrow_schema)
        check_table(empty.schema, features)
        assert Features.from_arrow_schema(features.arrow_schema) == features


def test_the_seven_data_sets_are_known() -> None:
    assert {name for name, _ in DATA_SETS} == set(data_sets())


def test_columns_that_the_design_fixes_are_there_with_their_types() -> None:
    fixed = {
        "key": "string",
        "id": "int64",
        "url": "string",
        "image_sha256": "string",
        "width": "int32",
        "height": "int32",
        "original": "string",
        "caption": "string",
        "task": "string",
        "round": "int32",
        "captioner": "string",
        "captioner_revision": "string",
        "engine": "string",
        "prompt_id": "string",
        "template_id": "string",
        "seed": "int64",
        "finish_reason": "string",
        "num_tokens": "int32",
        "num_words": "int32",
    }
    assert {name: CAPTION[name].dtype for name in fixed} == fixed
    assert set(QUALITY) < set(CAPTION)


def test_rejects_have_the_columns_of_captions_and_a_reason() -> None:
    assert list(REJECT) == [*CAPTION, "reject_reason"]


def test_images_are_embedded_or_named() -> None:
    embedded, named = features_of("llava-instruct", "default")
    assert "images" in embedded
    assert "image_paths" in named
    assert len(embedded) == len(named)
    embedded, named = features_of("spatial-relation-qa", "default")
    assert set(embedded) ^ set(named) == {"image", "image_path"}


def test_a_wrong_table_is_refused_with_column_and_type() -> None:
    features = Features({"key": Value("string"), "round": Value("int32"), "seed": Value("int64")})
    schema = pa.schema({"key": pa.string(), "round": pa.int64(), "extra": pa.bool_()})
    with pytest.raises(SchemaMismatch) as refused:
        check_table(schema, features, where="round1/train.parquet")
    assert str(refused.value) == (
        "round1/train.parquet: column 'round' is int64, expected int32; "
        "column 'seed' (int64) is missing; column 'extra' (bool) is unknown"
    )


def test_the_order_of_columns_does_not_matter() -> None:
    features = Features({"a": Value("string"), "b": Value("int32")})
    check_table(pa.schema({"b": pa.int32(), "a": pa.string()}), features)


@pytest.mark.parametrize(
    ("data_set", "config", "said"),
    [("nothing", "x", "there is no data set 'nothing'"), ("coyo-recap", "round0", "no config")],
)
def test_unknown_tables_are_refused(data_set: str, config: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        features_of(data_set, config)

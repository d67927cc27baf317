"""Mistakes in a training recipe are told before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from making import write_recipe
from train_recipes import stage_content

from vila2data.errors import RecipeError
from vila2data.recipe import load_recipe, parse_recipe
from vila2data.training.recipe import TrainRecipe


@pytest.fixture
def build(tmp_path: Path) -> Path:
    folder = tmp_path / "builds" / "coyo-recap" / "1.0.0"
    folder.mkdir(parents=True)
    (tmp_path / "corpus").mkdir()
    return folder


def write(build: Path, **blocks: Any) -> Path:
    file = build.parents[2] / "t.yaml"
    file.write_text(yaml.safe_dump({**stage_content(build), **blocks}))
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as told:
        parse_recipe(TrainRecipe, file, overrides)
    return str(told.value)


def test_a_recipe_that_freezes_everything_is_refused(build: Path) -> None:
    told = refusal(write(build, trains=[]))
    assert "trains: freezes everything; name some of vision, projector, language" in told


def test_parts_that_do_not_exist_or_stand_twice_are_told(build: Path) -> None:
    assert "trains.0: input should be 'vision'" in refusal(write(build, trains=["tower"]))
    assert "names a part twice" in refusal(write(build, trains=["vision", "vision"]))


def test_every_mistake_is_told_at_once_with_its_line(build: Path) -> None:
    file = write(build, optimisation={"batch": 0}, hardware={"sharding": "zero2"}, sede=1)
    told = refusal(file)
    assert "optimisation.learning_rate: is missing" in told
    assert "optimisation.batch: input should be greater than or equal to 1, not 0" in told
    assert "must be deepspeed-stage2, deepspeed-stage3, fsdp, null" in told
    assert "sede: is no key here; did you mean 'seed'?" in told
    assert f"{file}:" in told


def test_a_batch_that_cannot_be_divided_is_told(build: Path) -> None:
    told = refusal(write(build), "hardware.micro_batch=3")
    assert "hardware.micro_batch: 3 does not divide optimisation.batch 8" in told


def test_what_is_not_there_is_told(build: Path) -> None:
    told = refusal(
        write(build, model={"checkpoint": "./models/none"}),
        "feed.sources.0.build=builds/none",
        "hardware.sharding=zero.json",
    )
    assert "model.checkpoint: ./models/none: no such folder" in told
    assert "feed.sources.0.build: builds/none: no such build" in told
    assert "hardware.sharding: zero.json: no such file" in told


def test_items_of_lists_can_be_set(build: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    recipe = parse_recipe(TrainRecipe, write(build), [f"feed.sources.0.build={tmp_path}/other"])
    assert recipe.feed.sources[0].build == tmp_path / "other"
    told = refusal(
        write(build), "feed.sources.1={}", "feed.sources.7.cap=1", "feed.sources.0.cap=0"
    )
    assert "--set feed.sources.1={}: '1' is no item of the list; it has 1, from 0" in told
    assert "--set feed.sources.7.cap=1: '7' is a value, not a block" in told
    assert "--set feed.sources.0.cap=0: feed.sources.0.cap: input should be greater" in told


def test_recipes_of_another_kind_name_their_command(build: Path, tmp_path: Path) -> None:
    captions = write_recipe(tmp_path / "captions.yaml")
    with pytest.raises(RecipeError, match=r"is a recipe for `vila2data build`: .*no 'feed'"):
        parse_recipe(TrainRecipe, captions)
    with pytest.raises(RecipeError, match=r"is a recipe for `vila2data train`: .*no 'builder'"):
        load_recipe(write(build))


def test_what_shapes_the_result_leaves_out_where_and_how_fast(build: Path) -> None:
    file = write(build)
    base = parse_recipe(TrainRecipe, file).shaping(precision="float32")
    for same in (
        "out=elsewhere",
        "hardware.micro_batch=2",
        "hardware.workers=3",
        "hardware.sharding=fsdp",
        "checkpoints.keep=7",
        "logging.every_steps=5",
    ):
        assert parse_recipe(TrainRecipe, file, [same]).shaping(precision="float32") == base, same
    for other in (
        "seed=1",
        "optimisation.learning_rate=1",
        "trains=[vision]",
        "feed.sources.0.cap=1",
        "model.seed=1",
    ):
        assert parse_recipe(TrainRecipe, file, [other]).shaping(precision="float32") != base, other

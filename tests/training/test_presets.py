"""The presets are the papers' tables."""

from pathlib import Path

import pytest
import yaml
from train_recipes import stage_content

from vila2data.errors import RecipeError
from vila2data.recipe import parse_recipe
from vila2data.training.presets import load_presets, with_preset
from vila2data.training.recipe import TrainRecipe

ALL = ["vision", "projector", "language"]
TABLES = {  # trained, learning rate, batch, DeepSpeed stage
    "vila2/align": (["projector"], 1e-3, 1024, 2),
    "vila2/pretrain": (["projector", "language"], 5e-5, 1024, 3),
    "vila2/sft": (ALL, 2e-5, 1024, 3),
    "vila2/specialist": (ALL, 1e-4, 1024, 3),
    "vila2-40b/short": (["projector", "language"], 5e-5, 1024, 3),
    "llava15/align": (["projector"], 1e-3, 256, 2),
    "llava15/sft": (["projector", "language"], 2e-5, 128, 3),
}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A place; what is in it is not read here."""
    folder = tmp_path / "builds" / "coyo-recap" / "1.0.0"
    folder.mkdir(parents=True)
    (tmp_path / "corpus").mkdir()
    return folder


def recipe_of(build: Path, *overrides: str, **blocks: object) -> TrainRecipe:
    content = {k: v for k, v in stage_content(build).items() if k in ("model", "feed", "out")}
    file = build.parents[2] / "t.yaml"
    file.write_text(yaml.safe_dump({**content, **blocks}))
    return parse_recipe(TrainRecipe, file, overrides)


def test_every_preset_of_the_tables_is_there_and_cites_its_paper() -> None:
    assert list(load_presets()) == list(TABLES)
    for name, preset in load_presets().items():
        assert "Table" in preset["source"], name


@pytest.mark.parametrize("name", TABLES)
def test_a_preset_gives_the_numbers_of_its_table(build: Path, name: str) -> None:
    trains, learning_rate, batch, zero = TABLES[name]
    recipe = recipe_of(build, preset=name)
    rules = recipe.optimisation
    assert list(recipe.trains) == trains
    assert (rules.learning_rate, rules.batch) == (learning_rate, batch)
    assert (rules.schedule, rules.warmup_ratio, rules.weight_decay) == ("cosine", 0.03, 0.0)
    assert (rules.epochs, rules.optimizer) == (1, "adamw")
    assert recipe.hardware.sharding == f"deepspeed-stage{zero}"


def test_what_the_recipe_says_itself_wins(build: Path) -> None:
    own = {"learning_rate": 3e-4, "betas": [0.9, 0.95]}
    recipe = recipe_of(
        build, "optimisation.batch=64", preset="vila2/pretrain", optimisation=own, trains=["vision"]
    )
    rules = recipe.optimisation
    assert (rules.learning_rate, rules.batch, rules.betas) == (3e-4, 64, (0.9, 0.95))
    assert list(recipe.trains) == ["vision"]
    assert (
        recipe_of(build, preset="vila2/sft", hardware={"sharding": None}).hardware.sharding is None
    )


def test_the_resolved_recipe_tells_every_value(build: Path) -> None:
    told = recipe_of(build, preset="vila2/sft").model_dump(mode="json")
    assert told["optimisation"]["learning_rate"] == 2e-5
    assert told["trains"] == ALL
    assert set(told["optimisation"]) >= {"betas", "epsilon", "max_grad_norm"}


def test_an_unknown_preset_is_told_with_the_known_ones(build: Path) -> None:
    with pytest.raises(RecipeError, match=r"preset: must be one of vila2/align, .*'vila2/aline'"):
        recipe_of(build, preset="vila2/aline")


def test_a_preset_is_not_changed_by_what_is_laid_over_it() -> None:
    with_preset({"optimisation": {"batch": 1}}, "vila2/align")
    assert load_presets()["vila2/align"]["optimisation"]["batch"] == 1024

"""The foundation that is shipped is the one of the shipped recipe."""

import json

import yaml

from vila2data.recipe import find_recipe
from vila2data.training.nano import foundation_folder
from vila2data.training.nano.recipe import FoundationRecipe
from vila2data.training.nano.train import read_record

_MOST_BYTES = 8_000_000


def test_it_was_made_by_the_shipped_recipe():
    content = yaml.safe_load(find_recipe("nano/foundation").read_text("utf-8"))
    recipe = FoundationRecipe.model_validate(content)
    assert read_record(foundation_folder())["recipe"] == json.loads(json.dumps(recipe.shaping()))


def test_it_reads_images_that_it_was_not_trained_on():
    held_out = read_record(foundation_folder())["held_out"]
    assert held_out["objects"] >= 900
    assert held_out["color_of_box"] >= 0.9
    assert held_out["name_of_box"] >= 0.75


def test_it_is_small_and_in_half_precision():
    from safetensors.torch import load_file

    files = [file for file in foundation_folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= _MOST_BYTES
    for part in ("vision", "language"):
        weights = load_file(foundation_folder() / part / "model.safetensors")
        assert {str(weight.dtype) for weight in weights.values()} == {"torch.bfloat16"}


def test_words_that_captions_teach_are_single_tokens():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(foundation_folder() / "language")
    words = "red cube cylinder large small shiny matte wooden striped left right behind front"
    assert all(len(tokenizer(f" {word}")["input_ids"]) == 1 for word in words.split())

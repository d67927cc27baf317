"""The foundation: what it is trained on, that a run can be stopped anywhere, and what it leaves."""

import json
from functools import partial

import numpy as np
import pytest
from scene_rows import a_row, a_thing, drawn_rows, write_corpus, write_scenes

from vila2data.errors import BadInput, RecipeError, RunRefused
from vila2data.files import file_sha256
from vila2data.recipe import load_recipe, parse_recipe
from vila2data.training.nano.patches import Names, patch_targets
from vila2data.training.nano.recipe import FoundationRecipe
from vila2data.training.nano.samples import Samples, scene_rows
from vila2data.training.nano.texts import listed, looked_up, named, written
from vila2data.training.nano.tokenizer import make_tokenizer
from vila2data.training.nano.train import train_foundation

_HELD_BACK = {"small", "large", "matte", "shiny", "gray", "wooden", "left", "right", "How", "is"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("foundation")
    rows, held = drawn_rows(10), drawn_rows(2, seed=1)
    build = write_scenes(root / "scenes" / "0.1.0", {"train": rows, "test": held})
    write_corpus(root / "corpus" / "test", held)
    return root, build, write_corpus(root / "corpus" / "train", rows), rows


def recipe_of(made, out, *settings, steps=3):
    root, build, corpus, _ = made
    own = [
        f"foundation.scenes={build}",
        f"foundation.corpus={corpus.parent}",
        f"foundation.vocabulary_of={build}",
        "foundation.vision={image_side_px: 48, patch_side_px: 12, width: 32, layers: 2}",
        "foundation.language={vocabulary: 400, width: 32, layers: 1, positions: 128}",
        "foundation.schedule.warmup_steps=1",
        f"foundation.schedule.tower={{steps: {steps}, batch: 4, learning_rate: 1.0e-3}}",
        f"foundation.schedule.joint={{steps: {steps}, batch: 4, learning_rate: 1.0e-3}}",
        f"out={root / out / 'made'}",
        f"run={root / out / 'run'}",
        "every_steps=2",
        "threads=1",
    ]
    return parse_recipe(FoundationRecipe, "nano/foundation", [*own, *settings])


def signature(targets):
    return hash((targets.classes.tobytes(), targets.surroundings.tobytes()))


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): file_sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_patch_belongs_to_the_nearest_object_at_its_middle():
    near = a_thing("red", "cube", 0.0, 2.0, size="large")  # box 0.3-0.7 x 0.55-0.95
    far = a_thing("blue", "ball", 0.0, 4.0)  # 0.45-0.55 x 0.575-0.675: behind the cube
    row = a_row("k", [near, far])
    names = Names.of([row])
    told = patch_targets(row, names, 4, mirrored=False)
    grid = told.classes[:, 0].reshape(4, 4)
    cube = names.attributes["shape"].index("cube") + 1
    assert grid.tolist() == [[0] * 4, [0] * 4, [0, cube, cube, 0], [0, cube, cube, 0]]
    assert told.places.reshape(4, 4, 5)[2, 1] == pytest.approx([0.3, 0.55, 0.7, 0.95, 0.25])
    assert not told.places.reshape(4, 4, 5)[0].any()


def test_a_mirrored_scene_has_mirrored_targets_and_texts():
    row = a_row("k", [a_thing("red", "cube", -1.0, 3.0), a_thing("blue", "ball", 1.0, 3.0)])
    names = Names.of([row])
    plain, turned = (patch_targets(row, names, 8, mirrored=m) for m in (False, True))
    assert (plain.classes.reshape(8, 8, 4)[:, ::-1] == turned.classes.reshape(8, 8, 4)).all()
    assert plain.classes.any()
    first, last = (listed(named(row, mirrored=m))[0].text for m in (False, True))
    assert first.startswith("red cube [0.10, ")
    assert last.startswith("blue ball [0.10, ")


def test_even_the_smallest_object_has_a_patch():
    row = a_row("k", [a_thing("red", "cube", 0.31, 40.0)])
    told = patch_targets(row, Names.of([row]), 4, mirrored=False)
    assert (told.classes[:, 0] > 0).sum() == 1


def test_texts_name_shapes_colours_and_boxes_alone():
    rng = np.random.default_rng(0)
    said = set()
    for row in drawn_rows(30):
        things = named(row, mirrored=False)
        pieces = [*listed(things), *looked_up(things, rng)]
        said |= {word.strip(".,:[]") for piece in pieces for word in piece.text.split()}
    words = {word for word in said if not word.replace(".", "").isdecimal()}
    assert words == {"red", "green", "blue", "cube", "ball", "cone"}
    assert not words & _HELD_BACK


def test_what_is_asked_is_given_and_what_answers_is_learned():
    things = named(
        a_row("k", [a_thing("red", "cube"), a_thing("blue", "ball", 1.0)]), mirrored=False
    )
    by_name = {thing.name: written(thing.bbox) for thing in things}
    by_box = {box: name for name, box in by_name.items()}
    directions = set()
    for seed in range(20):
        pieces = looked_up(things, np.random.default_rng(seed))
        assert [piece.is_learned for piece in pieces] == [False, True] * 2
        for asked, answer in zip(pieces[::2], pieces[1::2], strict=True):
            question = asked.text.strip().removesuffix(":")
            assert {**by_name, **by_box}[question] == answer.text.strip()
            directions.add(question in by_name)
    assert directions == {True, False}


def test_coordinates_and_words_are_one_token_and_every_text_comes_back():
    tokenizer = make_tokenizer(["The wooden floor."] * 200, 1200)
    assert len(tokenizer) <= 1200
    assert len(tokenizer("[0.12, 0.34, 0.56, 0.78]")["input_ids"]) == 9
    assert tokenizer.tokenize("The wooden floor.") == ["The", "Ġwooden", "Ġfloor", "."]
    for text in ("naïve 你好 <img>\n\t 3.1415", "[0.12, 1.00]", "IMG_2041.jpg"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_scene_is_seen_once_an_epoch_in_an_order_of_its_own(made):
    _, build, corpus, _ = made
    rows = scene_rows(build)
    samples = Samples(build, corpus, 8).drawn(30, 3)
    by_targets = {
        signature(patch_targets(row, samples.names, 8, mirrored=m)): row["key"]
        for row in rows
        for m in (False, True)
    }
    assert len(by_targets) == 20, "the scenes differ"
    seen = [by_targets[signature(samples[n].targets)] for n in range(30)]
    epochs = [seen[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == [row["key"] for row in rows] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = Samples(build, corpus, 8).drawn(30, 3)
    assert again[17].pieces == samples[17].pieces, "asked for alone, out of order"


def test_a_run_that_was_stopped_ends_with_the_same_bytes(made):
    whole = train_foundation(recipe_of(made, "whole"))

    stops = iter((3, 6))

    def stop(step, losses, at):
        if step == at:
            raise KeyboardInterrupt

    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            train_foundation(recipe_of(made, "stopped"), partial(stop, at=at))
    steps = []
    done = train_foundation(recipe_of(made, "stopped"), lambda step, _: steps.append(step))
    assert steps[0] == 6, "goes on after the checkpoint of step 2 of the second part"
    assert hashes(done) == hashes(whole)
    names = set(hashes(whole))
    assert {"foundation.json", "vision/model.safetensors", "language/model.safetensors"} <= names
    assert "projector" not in " ".join(names)


def test_another_recipe_is_refused(made):
    train_foundation(recipe_of(made, "bound", steps=1))
    with pytest.raises(RunRefused, match="seed"):
        train_foundation(recipe_of(made, "bound", "seed=1", steps=1))
    elsewhere = f"run={made[0] / 'elsewhere'}"
    with pytest.raises(RunRefused, match="is the foundation of another recipe"):
        train_foundation(recipe_of(made, "bound", "seed=1", elsewhere, steps=1))


def test_scenes_without_an_image_and_other_recipes_are_refused(made, tmp_path):
    _, build, _, rows = made
    corpus = write_corpus(tmp_path / "corpus", rows[1:])
    with pytest.raises(BadInput, match=f"has no image of the scene {rows[0]['key']}"):
        Samples(build, corpus, 4)
    with pytest.raises(RecipeError, match="is a recipe for `vila2data foundation`"):
        load_recipe("nano/foundation")
    missing = str(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"foundation.scenes: .*none: no such build"):
        recipe_of(made, "x", f"foundation.scenes={missing}")


def test_what_is_left_is_assembled_and_told(made):
    from vila2data.training.architectures.assemble import assemble
    from vila2data.training.architectures.spec import ModelSpec

    out = train_foundation(recipe_of(made, "whole"))
    record = json.loads((out / "foundation.json").read_text())
    assert set(record["held_out"]) == {"objects", "name_of_box", "color_of_box", "box_of_name"}
    assert record["recipe"]["schedule"]["tower"]["steps"] == 3
    for architecture in ("llava", "vila"):
        spec = ModelSpec(
            architecture=architecture, vision=str(out / "vision"), language=str(out / "language")
        )
        model, processor = assemble(spec)
        assert processor.tokenizer("red cube")["input_ids"]
        assert model.config.text_config.tie_word_embeddings


class Knowing:
    """A model that answers from what it is told; its tokens are the answers' numbers."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def eval(self):
        return self

    def generate(self, *, input_ids, max_new_tokens, **_):
        import torch

        answers = [next(self.answers) for _ in input_ids]
        longest = min(max(map(len, answers)), max_new_tokens)  # it stops where all have ended
        rows = [[*a, *[0] * longest][:longest] for a in answers]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)


def test_figures_count_what_was_answered(made):
    from vila2data.training.nano.figures import measure
    from vila2data.training.nano.train import new_model

    _, build, corpus, _ = made
    _, processor = new_model(recipe_of(made, "figures", "foundation.language.vocabulary=1280"))
    samples = Samples(build, corpus.parent / "test", 4, "test")
    things = [thing for row in samples.rows for thing in named(row, mirrored=False)]
    ids = lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    names, boxes = [f" {t.name}\n" for t in things], [f" {written(t.bbox)}" for t in things]
    right = measure(Knowing(map(ids, [*names, *boxes])), processor, samples)
    assert right == {
        **{"objects": len(things), "name_of_box": 1.0, "color_of_box": 1.0, "box_of_name": 1.0}
    }
    wrong = [" red cube" if t.name != "red cube" else " red ball" for t in things]
    reds = sum(t.name.startswith("red") for t in things)
    far = [" [0.00, 0.00, 0.01, 0.01]"] * len(things)
    told = measure(Knowing(map(ids, [*wrong, *far])), processor, samples)
    assert told == {
        "objects": len(things),
        "name_of_box": 0.0,
        "color_of_box": round(reds / len(things), 4),
        "box_of_name": 0.0,
    }

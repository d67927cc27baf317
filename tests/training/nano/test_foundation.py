"""The foundation: what it is trained on, that a run can be stopped anywhere, and what it leaves."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scene_rows import a_row, a_thing, drawn_rows, write_corpus, write_scenes

from vila2data.errors import BadInput, RecipeError, RunRefused
from vila2data.files import file_sha256
from vila2data.recipe import load_recipe, parse_recipe
from vila2data.training.nano.patches import Names, patch_targets
from vila2data.training.nano.recipe import FoundationRecipe
from vila2data.training.nano.samples import Collator, Sample, Samples, scene_rows
from vila2data.training.nano.texts import (
    Piece,
    listed,
    looked_up,
    mentioned,
    named,
    read,
    written,
)
from vila2data.training.nano.tokenizer import make_tokenizer, words_of
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
        "foundation.language={vocabulary: 400, width: 32, layers: 3, positions: 256}",
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
    first, last = (text_of(listed(named(row, mirrored=m))) for m in (False, True))
    assert first.startswith("red cube [0.10, ")
    assert last.startswith("blue ball [0.10, ")


def test_even_the_smallest_object_has_a_patch():
    row = a_row("k", [a_thing("red", "cube", 0.31, 40.0)])
    told = patch_targets(row, Names.of([row]), 4, mirrored=False)
    assert (told.classes[:, 0] > 0).sum() == 1


def test_images_are_described_by_shapes_colours_and_boxes_alone():
    rng = np.random.default_rng(0)
    said = set()
    for row in drawn_rows(30):
        things = named(row, mirrored=False)
        pieces = [*listed(things), *looked_up(things, rng), *mentioned(things, ["-"], rng)]
        said |= {word.strip(".,:[]-") for piece in pieces for word in piece.text.split()}
    words = {word for word in said if word and not word.replace(".", "").isdecimal()}
    assert words == {"red", "green", "blue", "cube", "ball", "cone"}
    assert not words & _HELD_BACK


def test_what_is_asked_is_given_and_what_answers_is_learned():
    things = named(
        a_row("k", [a_thing("red", "cube"), a_thing("blue", "ball", 1.0)]), mirrored=False
    )
    boxes = {word: written(t.bbox) for t in things for word in (t.name, *t.name.split())}
    names = {written(thing.bbox): thing.name for thing in things}
    asked, answered = set(), set()
    for seed in range(40):
        pieces = looked_up(things, np.random.default_rng(seed))
        for line in text_of(pieces).split("\n"):
            question, answer = line.split(": ")
            assert {**boxes, **names}[question] == answer
            asked.add(question)
        answered |= {piece.text.strip() for piece in pieces if piece.is_learned}
        assert text_of(piece for piece in pieces if piece.is_learned).count(":") == 0
    assert asked == {*boxes, *names}, "by whole names, by a word that is one's own, by boxes"
    assert answered == {*names, *names.values()}


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def test_a_word_of_two_objects_calls_neither():
    pair = [a_thing("red", "cube"), a_thing("red", "ball", 1.0)]
    things, called = named(a_row("k", pair), mirrored=False), set()
    for seed in range(60):
        called |= {p.text.strip() for p in mentioned(things, ["-"], np.random.default_rng(seed))}
    assert called == {"red cube", "red ball", "cube", "ball", "-"}


def test_where_named_objects_are_is_asked_where_a_name_ends_and_steps_until_the_next():
    row = a_row("k", [a_thing("red", "cube", -1.0, 4.0), a_thing("blue", "ball", 1.0, 8.0)])
    things = named(row, mirrored=False)
    centres = {
        thing.name: ((o["bbox"][0] + o["bbox"][2]) / 2, o["center"][2] / 8.0)
        for thing, o in zip(things, row["objects"], strict=True)
    }
    ends = {word: thing.name for thing in things for word in thing.name.split()}
    tokenizer = make_tokenizer([" red cube blue ball of the"] * 200, 600)
    lead, steps = [tokenizer.bos_token_id], 0
    collator = Collator(a_processor(tokenizer, lead))
    for seed in range(20):
        pieces = mentioned(things, [" of", " the"], np.random.default_rng(seed))
        assert not any(piece.is_learned for piece in pieces)
        targets = patch_targets(row, Names.of([row]), 4, mirrored=False)
        batch = collator([Sample(Image.new("RGB", (8, 8)), pieces, targets)])
        tokens = [tokenizer.decode([number]).strip() for number in batch["input_ids"][0]]
        before = last = None
        for position, token in enumerate(tokens[:-1]):
            goes_on = token in ("red", "blue") and tokens[position + 1] in ("cube", "ball")
            place, between = (
                batch[name][0, position].numpy() for name in ("named_places", "named_steps")
            )
            if token in ends and not goes_on:
                before, last = last, ends[token]
                thing = next(thing for thing in things if thing.name == last)
                assert place == pytest.approx([*thing.bbox, thing.depth_m / 8.0])
            else:
                assert np.isnan(place).all()
            if before is None or goes_on:
                assert np.isnan(between).all()
            else:
                wanted = np.subtract(centres[last], centres[before])
                assert between == pytest.approx(wanted, abs=1e-6)
                steps += 1
        assert batch["named_steps"][0, -1].isnan().all(), "nothing is asked at the end"
    assert steps > 100


def a_processor(tokenizer, lead):
    """What `Collator` asks of a processor; images are of one size already."""

    class Processor:
        image_token = "<image>"

        def __call__(self, *, text, images):
            assert text == "<image>\n"
            return {"input_ids": [lead]}

        def image_processor(self, images, return_tensors):
            return {"pixel_values": images}

    made = Processor()
    made.tokenizer = tokenizer
    return made


def test_what_is_read_of_other_scenes_comes_without_their_image():
    row = drawn_rows(1)[0]
    texts = {text_of(read(row, np.random.default_rng(seed))) for seed in range(30)}
    assert row["reference"] in texts
    asked = [text for text in texts if text.startswith("USER: ")]
    answers = {(q["question"], q["answer"]) for q in row["questions"]}
    for text in asked:
        turns = text.removesuffix("</s>").split("</s>")
        assert {tuple(t.removeprefix("USER: ").split(" ASSISTANT: ")) for t in turns} <= answers
    tokenizer = make_tokenizer([row["reference"]] * 200, 600)
    collator = Collator(a_processor(tokenizer, [tokenizer.convert_tokens_to_ids("<image>")]))
    targets = patch_targets(row, Names.of([row]), 4, mirrored=False)
    shown, hidden = (
        Sample(Image.new("RGB", (8, 8)), [Piece("a", True)], targets, is_shown=is_shown)
        for is_shown in (True, False)
    )
    has_image = collator([shown, hidden])["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")
    assert has_image.any(dim=1).tolist() == [True, False]


def test_the_loss_is_that_of_its_parts(made):
    """The same sum, token by token and number by number."""
    import torch
    from torch.nn.functional import cross_entropy

    from vila2data.training.nano.model import FoundationModel
    from vila2data.training.nano.train import new_model

    _, build, corpus, _ = made
    llava, processor = new_model(recipe_of(made, "loss"))
    samples = Samples(build, corpus, 4, [" of"])
    torch.manual_seed(0)
    model = FoundationModel(llava, *samples.names.sizes(), 0.0).eval()
    drawn = [samples[number] for number in range(12)]
    assert {sample.is_shown for sample in drawn} == {True, False}
    batch = Collator(processor)(drawn)
    with torch.inference_mode():
        loss = float(model(**batch)["loss"])
        texts, places, steps = [], [], []
        for sample in drawn:
            one = Collator(processor)([sample])
            inputs = {"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]}
            if sample.is_shown:
                inputs["pixel_values"] = one["pixel_values"]
            out = llava(**inputs, output_hidden_states=True)
            for position, label in enumerate(one["labels"][0, 1:].tolist()):
                if label >= 0:
                    logits = out.logits[0, position].float()
                    texts.append(float(cross_entropy(logits, torch.tensor(label))))
            for told, head, layer, into in (
                (one["named_places"][0], model.place_head, 1, places),
                (one["named_steps"][0], model.step_head, 2, steps),
            ):
                for position, wanted in enumerate(told.tolist()):
                    if not np.isnan(wanted).any():
                        said = head(out.hidden_states[layer][0, position]).tolist()
                        into += [abs(a - b) for a, b in zip(said, wanted, strict=True)]
    assert places
    assert steps
    wanted = np.mean(texts) + 5.0 * (np.mean(places) + np.mean(steps))
    assert loss == pytest.approx(wanted, rel=1e-4)


def test_words_that_mean_nothing_are_whole_words_of_the_vocabulary():
    tokenizer = make_tokenizer(["The wooden floor is 12 m wide, naïve"] * 200, 1200)
    words = words_of(tokenizer)
    assert {" wooden", " floor", " is"} <= set(words)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)
    assert all(word[1:].isalpha() and word.isascii() for word in words)


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
    samples = Samples(build, corpus, 8, [" of"]).drawn(30, 3)
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
    again = Samples(build, corpus, 8, [" of"]).drawn(30, 3)
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
        Samples(build, corpus, 4, [" of"])
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
    figures = {"objects", "name_of_box", "color_of_box", "box_of_name"}
    assert set(record["held_out"]) == figures | {"side_of_pair", "depth_of_pair"}
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
    samples = Samples(build, corpus.parent / "test", 4, [" of"], "test")
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


def test_pairs_are_told_where_they_are_apart(made, monkeypatch):
    """A model whose state at the end is the number of the prompt, and a head that knows them."""
    import torch

    from vila2data.training.nano.figures import measure_pairs
    from vila2data.training.nano.train import new_model

    _, build, corpus, _ = made
    _, processor = new_model(recipe_of(made, "figures", "foundation.language.vocabulary=1280"))
    samples = Samples(build, corpus, 4, [" of"])
    pairs = []
    for row in samples.rows:
        middles = [(o["bbox"][0] + o["bbox"][2]) / 2 for o in row["objects"]]
        depths = [o["center"][2] for o in row["objects"]]
        names = [f"{a['color']} {a['shape']}" for a in row["attributes"]]
        for i, j in ((i, j) for i in range(len(names)) for j in range(len(names)) if i != j):
            pairs.append(
                (f" {names[i]} {names[j]}", middles[j] - middles[i], depths[j] - depths[i])
            )
    seen = []

    class Numbering:
        def eval(self):
            return self

        def __call__(self, *, input_ids, output_hidden_states, **_):
            texts = processor.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
            states = torch.zeros(len(texts), input_ids.shape[1], 1)
            for place, text in enumerate(texts):
                assert text.endswith(pairs[len(seen)][0])
                states[place, -1] = len(seen)
                seen.append(text)
            return type("Out", (), {"hidden_states": (None, states, None)})

    def knowing(sign):
        return lambda states: torch.tensor(
            [[sign * pairs[int(n)][1], -sign * pairs[int(n)][2]] for n in states[:, 0]]
        )

    told = measure_pairs(Numbering(), knowing(1), processor, samples)
    assert len(seen) == len(pairs)
    assert told == {"side_of_pair": 1.0, "depth_of_pair": 0.0}
    seen.clear()
    told = measure_pairs(Numbering(), knowing(-1), processor, samples)
    assert told == {"side_of_pair": 0.0, "depth_of_pair": 1.0}
    seen.clear()
    margin = sorted(abs(depth) for _, _, depth in pairs)[len(pairs) // 2] + 0.01
    monkeypatch.setattr("vila2data.training.nano.figures._DEPTH_MARGIN_M", margin)
    near = [abs(depth) < margin for _, _, depth in pairs]
    assert any(near)
    assert not all(near)
    only_apart = lambda states: torch.tensor(  # noqa: E731
        [[0.0, pairs[int(n)][2] * (-1 if near[int(n)] else 1)] for n in states[:, 0]]
    )
    assert measure_pairs(Numbering(), only_apart, processor, samples)["depth_of_pair"] == 1.0

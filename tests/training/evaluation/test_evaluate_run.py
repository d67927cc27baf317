"""A whole evaluation of a tiny model."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from scene_rows import drawn_rows, make_scenes, picture_of, write_corpus, write_scenes

from vila2data.engines.transformers import TransformersEngine
from vila2data.errors import BadInput, CorpusError, RunFailed, RunRefused
from vila2data.prompts.catalog import prompt
from vila2data.training.evaluation import run as run_module
from vila2data.training.evaluation.answers import normalised
from vila2data.training.evaluation.evaluation import Evaluation, read_evaluation
from vila2data.training.evaluation.figures import Figure
from vila2data.training.evaluation.likelihood import Said, Scorer
from vila2data.training.evaluation.run import evaluate

SETTINGS = {"batch_size": 4, "threads": 1, "max_tokens": 10}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("made"), 4)


@pytest.fixture(scope="module")
def done(made, tiny_llava, tmp_path_factory):
    """Where a finished evaluation lies, and what was returned."""
    out = tmp_path_factory.mktemp("out") / "deep" / "evaluation.json"
    counts = []
    found = evaluate(tiny_llava, *made, **SETTINGS, out=out, on_text=counts.append)
    return out, found, sum(counts)


def test_every_figure_is_there_and_the_file_holds_them(done):
    out, found, count = done
    assert read_evaluation(out) == found
    assert (found.scenes, found.rejected) == (4, {})
    assert set(found.figures) >= {
        *("words", "words_deviation", "unique_captions", "hallucinated_share"),
        *("object_precision", "object_recall", "blind_object_precision", "blind_object_recall"),
        *("attribute_accuracy", "floor_accuracy", "wall_accuracy", "count_accuracy"),
        *("side_accuracy", "said_relation_accuracy"),
        *("vqa", "vqa_existence", "vqa_side", "existence_accuracy", "existence_yes"),
        *("relation_accuracy", "relation_accuracy_side", "relation_accuracy_depth"),
        *("loss", "loss_shuffled", "loss_margin"),
    }
    assert found.figures["vqa_existence"].count == 8
    # captions, answers, references with two images each, choices
    assert count == 4 + 24 + 2 * 4 + 8


def test_captions_and_answers_are_kept(done, made):
    out, found, _ = done
    rows = drawn_rows(4)
    captions = pq.read_table(out.with_name("evaluation-captions.parquet")).to_pylist()
    assert [c["key"] for c in captions] == [r["key"] for r in rows]
    assert [c["reference"] for c in captions] == [r["reference"] for r in rows]
    assert {c["num_tokens"] for c in captions} <= set(range(1, 11))
    words = [len(c["caption"].split()) for c in captions]
    assert found.figures["words"].value == sum(words) / 4
    tokens = sum(c["reference_tokens"] for c in captions)
    assert found.figures["loss"].value == pytest.approx(sum(c["loss"] for c in captions) / tokens)
    shuffled = sum(c["loss_shuffled"] for c in captions) / tokens
    assert found.figures["loss_shuffled"].value == pytest.approx(shuffled)

    answers = pq.read_table(out.with_name("evaluation-answers.parquet")).to_pylist()
    asked = [
        (r["key"], q["kind"], q["question"], q["answer"]) for r in rows for q in r["questions"]
    ]
    assert [(a["key"], a["kind"], a["question"], a["answer"]) for a in answers] == asked
    assert all((a["chosen"] is not None) == (a["kind"] in ("side", "depth")) for a in answers)
    sides = [a["chosen"] == a["answer"] for a in answers if a["kind"] == "side"]
    assert found.figures["relation_accuracy_side"].value == sum(sides) / 4
    counts = [normalised(a["generated"]) == a["answer"] for a in answers if a["kind"] == "count"]
    assert found.figures["vqa_count"].value == sum(counts) / 4
    assert all(len(a["generated"].split()) <= 12 for a in answers)


def test_references_are_scored_with_their_own_image_and_the_next(done, tiny_llava):
    captions = pq.read_table(done[0].with_name("evaluation-captions.parquet")).to_pylist()
    rows = drawn_rows(4)
    text = prompt("long-v1").text
    pairs = [(rows[image], rows[of]) for of in range(4) for image in (of, (of + 1) % 4)]
    said = [Said(picture_of(shown), text, told["reference"]) for shown, told in pairs]
    losses = [one.loss for one in Scorer(str(tiny_llava), batch_size=8).score(said)]
    kept = [loss for c in captions for loss in (c["loss"], c["loss_shuffled"])]
    assert kept == pytest.approx(losses, rel=1e-4)
    assert len({round(loss, 3) for loss in losses}) > 4  # the image matters


def test_results_may_come_in_any_order(done, made, tiny_llava, tmp_path, monkeypatch):
    real = TransformersEngine.generate
    monkeypatch.setattr(
        TransformersEngine, "generate", lambda self, asked: reversed(list(real(self, asked)))
    )
    evaluate(tiny_llava, *made, **SETTINGS, out=tmp_path / "evaluation.json")
    for name in ("evaluation.json", "evaluation-captions.parquet", "evaluation-answers.parquet"):
        assert (tmp_path / name).read_bytes() == done[0].with_name(name).read_bytes()


def test_a_finished_evaluation_is_read_not_repeated(done, made, tiny_llava, monkeypatch):
    out, found, _ = done
    monkeypatch.setattr(run_module, "write_texts", None)  # would break a second run
    before = out.stat().st_mtime_ns
    other_speed = SETTINGS | {"batch_size": 1, "threads": 2}
    assert evaluate(tiny_llava, *made, **other_speed, out=out) == found
    assert out.stat().st_mtime_ns == before


def test_the_file_names_no_place(done, made):
    text = done[0].read_text()
    assert str(made[0].parent.parent) not in text
    assert json.loads(text)["inputs"]["prompt"]["id"] == "long-v1"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_tokens": 11}, "max_tokens: 10 in the run, 11 now"),
        ({"samples": 3}, "samples: None in the run, 3 now"),
        ({"prompt": "simple"}, "prompt.id: long-v1 in the run, simple now"),
    ],
)
def test_other_settings_are_refused(done, made, tiny_llava, changes, told):
    with pytest.raises(RunRefused, match=rf"evaluation.json was begun with other .*{told}.*--out"):
        evaluate(tiny_llava, *made, **(SETTINGS | changes), out=done[0])


def test_another_checkpoint_or_build_is_refused(done, made, tiny_llava, tmp_path):
    other = shutil.copytree(tiny_llava, tmp_path / tiny_llava.name)
    (other / "extra.json").write_text("{}")
    with pytest.raises(RunRefused, match=r"checkpoint\.revision: sha256:.* in the run"):
        evaluate(other, *made, **SETTINGS, out=done[0])
    build = write_scenes(tmp_path / "b", {"test": drawn_rows(3, seed=9)})
    with pytest.raises(RunRefused, match=r"scenes\.manifest_sha256: .* in the run"):
        evaluate(tiny_llava, build, made[1], **SETTINGS, out=done[0])


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(done, made, tiny_llava, tmp_path):
    build = shutil.copytree(made[0], tmp_path / "b")
    corpus = shutil.copytree(made[1], tmp_path / made[1].name)
    evaluate(tiny_llava, build, corpus, **SETTINGS, out=tmp_path / "evaluation.json")
    for name in ("evaluation.json", "evaluation-captions.parquet", "evaluation-answers.parquet"):
        assert (tmp_path / name).read_bytes() == done[0].with_name(name).read_bytes()


def test_a_text_that_failed_is_counted_and_left_out(made, tiny_llava, monkeypatch):
    real = TransformersEngine.generate

    def failing(self, requests):
        from vila2data.engines import failed

        for result in real(self, requests):
            broken = result.index == 1
            yield failed(1, self.author, "image_unprocessable") if broken else result

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    found = evaluate(tiny_llava, *made, **SETTINGS, samples=3)
    assert found.rejected == {
        "caption: image_unprocessable": 1,
        "answer: image_unprocessable": 1,
    }
    assert found.figures["words"].count == 2
    assert sum(f.count for n, f in found.figures.items() if n.startswith("vqa_")) == 17


def test_without_captions_nothing_is_told(made, tiny_llava, monkeypatch):
    def failing(self, requests):
        from vila2data.engines import failed

        return (failed(r.index, self.author, "engine_broken", "no memory") for r in requests)

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    with pytest.raises(
        RunFailed, match="fewer than two captions could be written: engine_broken no memory"
    ):
        evaluate(tiny_llava, *made, **SETTINGS, samples=2)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"prompt": "long-v9"}, BadInput, "there is no prompt 'long-v9'; known: "),
        ({"out": "x.txt"}, BadInput, "out: .*x.txt: must be a file NAME.json"),
        ({"checkpoint": "./nowhere"}, BadInput, "checkpoint: ./nowhere: no such checkpoint folder"),
        ({"corpus": "nowhere"}, CorpusError, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(made, tiny_llava, tmp_path, changes, error, told):
    given = {"checkpoint": tiny_llava, "corpus": made[1], "out": None} | changes
    places = {n: tmp_path / given.pop(n) for n in ("corpus", "out") if given[n] is not None}
    with pytest.raises(error, match=told):
        evaluate(given.pop("checkpoint"), made[0], **SETTINGS, **(given | places))


def test_a_file_that_is_no_evaluation_is_told_by_name(tmp_path):
    file = tmp_path / "e.json"
    with pytest.raises(BadInput, match=r"e\.json: cannot be read: No such file"):
        read_evaluation(file)
    good = Evaluation({"a": 1}, 2, {}, {"loss": Figure(1.0, None, 2)}).to_json()
    for text in (
        "",
        "[]",
        "{}",
        good[:-20],
        good.replace('"count"', '"counts"'),
        good.replace("1.0", "NaN"),
        good.replace('"inputs": {\n    "a": 1\n  }', '"inputs": 3'),
        "[" * 100_000,
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=r"e\.json: is not what `vila2data evaluate` writes"):
            read_evaluation(file)
    file.write_bytes(b"\xff")
    with pytest.raises(BadInput, match=r"e\.json: cannot be read: is no text"):
        read_evaluation(file)


def test_an_evaluation_comes_back_as_it_was():
    there = Evaluation(
        {"a": {"b": [1, None]}}, 2, {"image_missing": 1}, {"x": Figure(0.1 + 0.2, None, 2)}
    )
    assert Evaluation.from_json(there.to_json()) == there
    assert there.figure("x").value == 0.1 + 0.2
    assert there.figure("y") == Figure(None, None, 0)


def test_a_scene_without_reference_or_questions_is_captioned(tiny_llava, tmp_path):
    rows = drawn_rows(2)
    for row in rows:
        row.update(reference=None, questions=None)
    build = write_scenes(tmp_path / "b", {"test": rows})
    found = evaluate(tiny_llava, build, write_corpus(tmp_path / "c", rows), **SETTINGS)
    assert found.figures["words"].count == 2
    assert found.figure("loss") == found.figure("vqa") == Figure(None, None, 0)

"""What other parts of the package do with a build of scenes and its corpus."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from making import recipe_content
from scene_builds import Rows, build_scenes, rows_in
from vila2data_fakes import AUTHOR, Answers

from vila2data import registry
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build
from vila2data.engines import Request, Result
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe
from vila2data.report.page import write_report
from vila2data.stats import statistics

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("used")
    build_scenes(folder, train=8, test=1, image_side_px=40)
    return folder


@pytest.fixture(scope="module")
def build(root: Path) -> Path:
    return root / "builds" / "scenes" / "1.0.0"


@pytest.fixture(scope="module")
def rows(build: Path) -> Rows:
    return rows_in(build)


def test_questions_about_space_are_made_of_every_scene(
    root: Path, build: Path, rows: Rows, tmp_path: Path
) -> None:
    settings = ["sources.0.path=" + str(build), f"sources.0.corpus={root}/corpus/train"]
    recipe = load_recipe("nano/spatial_relation_qa", [*settings, f"out={tmp_path}"])
    asked = write_build(registry.load("builders", "spatial-relation-qa"), recipe)
    assert verify(asked).problems == []
    steps = {step.step: step for step in read_manifest(asked).funnel}
    assert steps["scenes"].written == 8
    assert steps["boxes"].written == sum(len(row["objects"]) for row in rows["train"])
    assert {row["id"] for row in rows_in(asked)["default"]} <= {
        f"scenes/{row['key']}" for row in rows["train"]
    }


def test_captions_of_the_corpus_meet_the_boxes_of_the_build(
    root: Path, build: Path, rows: Rows, tmp_path: Path
) -> None:
    told = {row["key"]: row["objects"] for row in rows["train"]}
    told["train-0000000"] = told["train-0000000"][:1]

    def answers(requests: Iterable[Request]) -> Iterator[Result]:
        for request in requests:
            boxes = [
                f"a {thing['category']} [{', '.join(f'{x:.4f}' for x in thing['bbox'])}]"
                for thing in told[request.key]
            ]
            text = " and ".join(boxes) + " can be seen."
            yield Result(request.index, text, "stop", AUTHOR, num_tokens=9)

    recaption = {"task": "grounding", "prompts": {"grounding-v1": 1.0}}
    content = recipe_content(tmp_path, corpus=str(root / "corpus" / "train"), recaption=recaption)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    recipe = load_recipe(file)
    run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answers))
    grounded = write_build(registry.load("builders", "coyo-recap"), recipe)
    originals = rows_in(grounded)["original"]
    assert [row["original"] for row in originals] == [row["alt_text"] for row in rows["train"]]
    assert [row["id"] for row in originals] == list(range(8))
    figures = statistics(grounded, references=build)["references"].dicts()[0]
    total = sum(len(row["objects"]) for row in rows["train"])
    left_out = len(rows["train"][0]["objects"]) - 1
    assert figures["reference_boxes"] == total
    assert figures["matched"] == figures["judged_boxes"] == total - left_out
    assert figures["references_without_captions"] == 1  # the scene of `test`


def test_a_report_shows_picture_boxes_and_texts(
    root: Path, build: Path, rows: Rows, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    row = next(row for row in rows["train"] if row["reference"] and row["questions"])
    tars = root / "corpus" / "train"
    write_report([build], page, corpus=tars, samples=0, keys=[row["key"]], seed=0)
    text = page.read_text()
    assert "data:image/" in text
    for said in (row["alt_text"], row["reference"], row["questions"][0]["question"]):
        assert said.replace("'", "&#39;") in text
    assert text.count("<rect class=") >= len(row["objects"])

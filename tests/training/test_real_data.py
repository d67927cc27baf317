"""The stages one after another on real photos, texts and boxes, up to captions by the trained model;
and stages on builds of other data sets, and on interleaved documents.
"""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from feeding import CHATML, byte_tokenizer, document, instruct, make_build, write_documents
from making import write_recipe
from tiny_models import COMBINATIONS, CONTEXT, tiny_spec
from train_recipes import rows_of, weights_of
from typer.testing import CliRunner

from vila2data.build.verify import verify
from vila2data.cli import app
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import from_folder
from vila2data.engines.checkpoint import folder_revision
from vila2data.files import file_sha256
from vila2data.training.architectures.assemble import assemble
from vila2data.training.architectures.save import save_checkpoint
from vila2data.training.architectures.spec import ModelSpec
from vila2data.training.manifest import lineage, read_training

pytestmark = [pytest.mark.shared, pytest.mark.slow]

PHOTOS = 40
BATCH = 10
TRAINED = {  # VILA² A.4.1
    "align": {"projector"},
    "pretrain": {"projector", "language"},
    "sft": {"vision", "projector", "language"},
    "specialist": {"vision", "projector", "language"},
}
RATES = {"align": 1e-3, "pretrain": 5e-5, "sft": 2e-5}  # VILA² Table 8
# High enough that the model learns in a few steps how often texts end: captions then do.
SPECIALIST_RATE = 2e-2
WHOLE = {("llava", "clip"), ("vila", "siglip")}
FUNNEL = tuple[int, int, dict[str, int], int]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """The photos as a corpus, and builds of it: originals and round 1, then a specialist's answers
    as well.
    """
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("real")
    coco = shared_data / "captions" / "coco"
    pack(
        from_folder(coco / "images", coco / "captions.json"),
        folder / "corpus",
        samples_per_shard=11,
    )
    fake = {"name": "fake", "cut_share": 0.0}
    first = write_recipe(folder / "first.yaml", recaption={"engine": fake})
    spatial = {"task": "spatial", "prompts": {"spatial-v1": 1.0}, "round": 2, "engine": fake}
    second = write_recipe(
        folder / "second.yaml",
        version="1.1.0",
        base=str(built(folder, "1.0.0")),
        recaption={"run": str(folder / "runs" / "spatial"), **spatial},
    )
    for recipe in (first, second):
        command("recaption", recipe)
        command("build", recipe)
    turns = pq.read_table(next((built(folder) / "data" / "conversations").iterdir()))["messages"]
    assert sum(len(row) > 2 for row in turns.to_pylist()) > PHOTOS // 2  # specialist's turns
    tokenizer = byte_tokenizer(start=None, end="<|im_end|>", more=["<|im_start|>"])
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def built(root: Path, version: str = "1.1.0") -> Path:
    return root / "builds" / "coyo-recap" / version


def command(*arguments: object) -> str:
    """Runs ``vila2data`` in this process; returns what it showed."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception!r}"
    return done.stdout


def recap(root: Path, config: str, form: str, **more: Any) -> dict[str, Any]:
    """The photos as a source."""
    told = {"build": str(built(root)), "config": config, "corpus": str(root / "corpus")}
    return {**told, "form": form, **more}


def sources(root: Path, stage: str) -> list[dict[str, Any]]:
    """What a stage is trained on."""
    return {
        "align": [recap(root, "original", "plain")],
        "pretrain": [recap(root, "conversations", "plain")],
        "sft": [recap(root, "conversations", "chat")],
        "specialist": [
            recap(root, "spatial", "chat"),
            recap(root, "conversations", "chat", fraction=0.5),
        ],
    }[stage]


def run_stage(
    folder: Path, stage: str, model: Any, feed: dict[str, Any], **blocks: Any
) -> dict[str, Any]:
    """Trains a stage by its preset into ``folder / stage``; returns its manifest."""
    rate = {"learning_rate": SPECIALIST_RATE} if stage == "specialist" else {}
    content = {
        "preset": f"vila2/{stage}",
        "model": model,
        "feed": {"context_tokens": CONTEXT, **feed},
        "optimisation": {"batch": BATCH, **rate, **blocks.pop("optimisation", {})},
        "hardware": {"device": "cpu", "micro_batch": 5, "threads": 1},
        "out": str(folder / stage),
        **blocks,
    }
    file = folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    shown = command("train", file)
    assert f"next: caption with it: --set recaption.engine.model={folder}/{stage}/model" in shown
    told = json.loads((folder / stage / "model" / "training.json").read_text())
    rows = rows_of(folder / stage)
    assert [row["step"] for row in rows] == list(range(1, told["steps"] + 1))
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    assert told["step"] == told["steps"] == len(rows)
    for name in ("samples", "images", "tokens", "trained_tokens"):
        assert told["metrics"][name] == told["plan"][name] == sum(row[name] for row in rows)
    assert told["metrics"]["skipped"] == 0
    return told


def funnel(told: dict[str, Any]) -> list[FUNNEL]:
    """Where the rows of each source went: read, trained on, rejected, not sampled."""
    steps = told["plan"]["funnel"]
    for step in steps:
        lost = sum(step["rejected"].values()) + step["not_sampled"]
        assert step["read"] == step["written"] + lost
    return [(s["read"], s["written"], s["rejected"], s["not_sampled"]) for s in steps]


def changed_parts(before: Path, after: Path) -> set[str]:
    """Parts of which some weights differ; both checkpoints hold the same names and shapes."""
    old, new = weights_of(before), weights_of(after)
    assert {n: w.shape for n, w in old.items()} == {n: w.shape for n, w in new.items()}
    assert all(weight.isfinite().all() for weight in new.values())
    return {part_of(name) for name in old if not torch.equal(old[name], new[name])}


def part_of(name: str) -> str:
    if "vision_tower" in name:
        return "vision"
    is_projector = "multi_modal_projector" in name or "image_newline" in name
    return "projector" if is_projector else "language"


def check_stage(folder: Path, stage: str, told: dict[str, Any], before: Path) -> None:
    """What a stage on the photos must have done."""
    assert set(told["recipe"]["trains"]) == TRAINED[stage]
    assert changed_parts(before, folder / stage / "model") == TRAINED[stage]
    whole: FUNNEL = (PHOTOS, PHOTOS, {}, 0)
    if stage == "specialist":
        spatial, kept = funnel(told)
        assert spatial == whole
        assert (kept[0], kept[2]) == (PHOTOS, {})
        assert 0 < kept[1] < PHOTOS
        assert told["plan"]["samples"] == told["plan"]["images"] == PHOTOS + kept[1]
    else:
        assert funnel(told) == [whole]
        epochs = told["recipe"]["optimisation"]["epochs"]
        assert told["steps"] == epochs * PHOTOS // BATCH
        assert told["plan"]["samples"] == told["plan"]["images"] == epochs * PHOTOS
        highest = max(row["learning_rate"] for row in rows_of(folder / stage))
        assert highest == pytest.approx(RATES[stage])


def check_captions(root: Path, folder: Path, last: str, stages: list[str]) -> None:
    """The model captions every photo, and a caption leads back to what its model was trained on."""
    model = folder / last / "model"
    engine = {"name": "transformers", "model": str(model), "dtype": "float32", "threads": 1}
    recipe = write_recipe(
        folder / "captions.yaml",
        corpus=str(root / "corpus"),
        recaption={
            "run": str(folder / "captions"),
            "engine": engine | {"batch_size": PHOTOS},
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 24},
            "retry": {"times": 1},
        },
    )
    command("recaption", recipe)
    command("build", recipe)
    build = folder / "builds" / "coyo-recap" / "1.0.0"
    assert verify(build).problems == []
    rows = [
        row
        for config in ("round1", "round1-rejects")
        for file in (build / "data" / config).iterdir()
        for row in pq.read_table(file).to_pylist()
    ]
    assert len({row["key"] for row in rows}) == len(rows) == PHOTOS
    assert any(row.get("reject_reason") is None for row in rows)
    (revision,) = {row["captioner_revision"] for row in rows}
    assert revision == folder_revision(model)
    history = lineage(model)
    assert history[0].revision == revision
    assert [stage.preset for stage in history] == [f"vila2/{s}" for s in reversed(stages)]
    models = [folder_revision(folder / stage / "model") for stage in reversed(stages)]
    assert [stage.revision for stage in history] == models
    manifest = file_sha256(built(root) / "build.json")
    for stage in history:
        assert {source["manifest_sha256"] for source in stage.sources} == {manifest}
        assert {(s["data_set"], s["version"]) for s in stage.sources} == {("coyo-recap", "1.1.0")}
        assert {source["corpus"] for source in stage.sources} == {"corpus"}
    first = read_training(folder / stages[0] / "model").initial
    assert set(first) == {"vision", "language"}


@pytest.mark.parametrize(("architecture", "tower"), COMBINATIONS)
def test_stages_after_one_another_and_captions_of_the_last(
    tmp_path: Path, root: Path, architecture: str, tower: str
) -> None:
    stages = list(TRAINED) if (architecture, tower) in WHOLE else ["align", "specialist"]
    spec = tiny_spec(root, architecture, tower)
    save_checkpoint(*assemble(spec), tmp_path / "new" / "model")
    models = [spec.model_dump(exclude_none=True)]
    models += [{"checkpoint": str(tmp_path / stage / "model")} for stage in stages]
    for (before, stage), model in zip(pairwise(["new", *stages]), models, strict=False):
        told = run_stage(tmp_path, stage, model, {"sources": sources(root, stage)})
        check_stage(tmp_path, stage, told, tmp_path / before / "model")
    check_captions(root, tmp_path, stages[-1], stages)


def scenes(shared: Path) -> Iterator[dict[str, Any]]:
    """Real pictures with their boxes as rows of ``spatial-relation-qa``: where is the nearest?"""
    folder = shared / "spatial3d"
    content = json.loads((folder / "derived" / "omni3d_style_dev.json").read_text())
    for image in content["images"]:
        boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        if not boxes:
            continue
        width, height = image["width"], image["height"]
        objects = [
            {
                "category": box["category_name"],
                "bbox": [
                    min(1.0, max(0.0, side / (height if n % 2 else width)))
                    for n, side in enumerate(box["bbox2D_trunc"])
                ],
                "center": box["center_cam"],
                "dimensions": box["dimensions"],
                "rotation": [value for row in box["R_cam"] for value in row],
            }
            for box in boxes
        ]
        nearest = min(range(len(objects)), key=lambda n: objects[n]["center"][2])
        place = ", ".join(f"{side:.3f}" for side in objects[nearest]["bbox"])
        relation = {"relation": "nearest", "family": "camera_object", "anchor": -1}
        relation |= {"target": nearest, "candidates": list(range(len(objects)))}
        question = f"<image>\nWhere is the nearest {objects[nearest]['category']}?"
        yield {
            "id": str(image["id"]),
            "image": {"bytes": (folder / image["file_path"]).read_bytes(), "path": None},
            "width": width,
            "height": height,
            "source": image["source_dataset"],
            "objects": objects,
            "relations": [relation | {"gap": 0.0, "template_id": "nearest"}],
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"[{place}]"},
            ],
            "flip_safe": True,
        }


def instructions(shared: Path) -> Iterator[dict[str, Any]]:
    """Real rows of LLaVA's mixture, whose pictures are not at hand; of ChartQA, with theirs; and
    LLaVA's examples, which are text alone.
    """
    roles = {"human": "user", "gpt": "assistant"}
    for row in json.loads((shared / "instruct" / "llava" / "mix665k_rows.json").read_text()):
        turns = [{"role": roles[t["from"]], "content": t["value"]} for t in row["conversations"]]
        yield instruct(str(row["id"]), turns, [None])
    charts = shared / "ocr" / "chartqa"
    for number, row in enumerate(json.loads((charts / "chartqa_augmented.json").read_text())):
        asked = {"role": "user", "content": f"<image>\n{row['query']}"}
        turns = [asked, {"role": "assistant", "content": row["label"]}]
        yield instruct(f"chart{number}", turns, [(charts / "png" / row["imgname"]).read_bytes()])
    for given in sorted((shared / "instruct" / "llava" / "prompts").glob("*/*_caps.txt")):
        answer = given.with_name(given.name.replace("caps", "conv"))
        turns = [
            {"role": "user", "content": given.read_text()},
            {"role": "assistant", "content": answer.read_text()},
        ]
        yield instruct(f"{given.parent.name}/{given.stem}", turns)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ModelSpec:
    """A LLaVA after stage 1."""
    folder = tmp_path_factory.mktemp("aligned")
    spec = tiny_spec(root, "llava", "clip")
    run_stage(
        folder, "align", spec.model_dump(exclude_none=True), {"sources": sources(root, "align")}
    )
    return ModelSpec(checkpoint=str(folder / "align" / "model"))


def test_a_mixture_of_data_sets(
    tmp_path: Path, root: Path, shared_data: Path, aligned: ModelSpec
) -> None:
    pictures, talks = list(scenes(shared_data)), list(instructions(shared_data))
    assert (len(pictures), len(talks)) == (13, 30)
    spatial = make_build(tmp_path / "spatial", "spatial-relation-qa", "default", pictures)
    blend = make_build(tmp_path / "blend", "llava-instruct", "sft", talks, files=2)
    feed = {
        "sources": [
            {"build": str(spatial), "weight": 2.0},
            {"build": str(blend), "weight": 1.5, "cap": 28},
            recap(root, "conversations", "chat", fraction=0.3),
        ],
        "missing_image": "skip",
        "packing": True,
        "single_modality": True,
    }
    model = aligned.model_dump(exclude_none=True)
    # Many in a pack: batches of two sequences, lest a batch take them all.
    told = run_stage(
        tmp_path,
        "sft",
        model,
        feed,
        optimisation={"batch": 2},
        hardware={"micro_batch": 1, "threads": 1},
    )
    scene_rows, talk_rows, photo_rows = funnel(told)
    assert scene_rows == (13, 13, {}, 0)
    read, written, rejected, not_sampled = talk_rows
    assert (read, not_sampled) == (30, 2)
    missing = rejected["image_missing"]
    assert set(rejected) == {"image_missing"}
    assert 1 <= missing <= 3
    assert written == 28 - missing
    assert photo_rows[0] == PHOTOS
    assert photo_rows[1] + photo_rows[3] == PHOTOS
    assert 0 < photo_rows[1] < PHOTOS // 2
    samples = told["plan"]["samples"]
    certain = 2 * 13 + written + photo_rows[1]  # the half of `weight` is drawn for each row
    assert certain < samples < certain + written
    rows = rows_of(tmp_path / "sft")
    assert all(row["images"] in (0, row["samples"]) for row in rows)
    assert {row["images"] > 0 for row in rows} == {True, False}
    assert max(row["samples"] for row in rows) > 4  # several in a sequence
    (stage, _) = lineage(tmp_path / "sft" / "model")
    assert [s["data_set"] for s in stage.sources] == [
        "spatial-relation-qa",
        "llava-instruct",
        "coyo-recap",
    ]


def test_interleaved_documents_of_the_photos(
    tmp_path: Path, root: Path, shared_data: Path, aligned: ModelSpec
) -> None:
    coco = json.loads((shared_data / "captions" / "coco" / "captions.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    told_of: dict[str, list[str]] = {name: [] for name in names}
    by_id = {image["id"]: image["file_name"] for image in coco["images"]}
    for annotation in coco["annotations"]:
        told_of[by_id[annotation["image_id"]]].append(annotation["caption"])
    documents: list[Any] = []
    for start in range(0, PHOTOS, 4):
        some = names[start : start + 4]
        texts = [text for name in some for text in told_of[name][:2]]
        # the last fits its text too little
        images = [(name, 2 * n, 0.2 if n == 3 else 0.3) for n, name in enumerate(some)]
        documents.append(document(texts, *images))
    documents.append(document(["A picture that is gone."], ("gone.jpg", 0, 0.9)))
    documents.append(b'{"text_list": ["cut of')
    file = write_documents(tmp_path / "docs.jsonl", documents)
    source = {"documents": str(file), "corpus": str(root / "corpus"), "min_similarity": 0.24}
    feed = {
        "sources": [{**source, "max_images": 2}, recap(root, "conversations", "plain")],
        "missing_image": "skip",
    }
    told = run_stage(tmp_path, "pretrain", aligned.model_dump(exclude_none=True), feed)
    lost = {"image_missing": 1, "document_unreadable": 1}
    assert funnel(told) == [(12, 10, lost, 0), (PHOTOS, PHOTOS, {}, 0)]
    assert told["plan"]["samples"] == 10 + PHOTOS
    assert told["plan"]["images"] == 2 * 10 + PHOTOS
    assert told["sources"][0]["documents"] == {"docs.jsonl": file_sha256(file)}
    start = Path(str(aligned.checkpoint))
    assert changed_parts(start, tmp_path / "pretrain" / "model") == TRAINED["pretrain"]

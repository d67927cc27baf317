"""The trainers' own readers open the exports, where they are installed."""

import io
import json
import sqlite3
import struct
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Features, Image, List, Value, load_dataset
from export_making import instruct_row, mixed_rows, write_fake_build
from export_reading import expected_of, read_messages
from making import make_picture
from PIL import Image as Pictures

from vila2data.export.run import export

TEXT = Value("string")
TOLD = {
    **dict.fromkeys(("id", "source", "task", "license"), TEXT),
    "images": List(TEXT),
    "messages": List({"role": TEXT, "content": TEXT}),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exports")
    build = write_fake_build(root / "build", mixed_rows())
    for format in ("sharegpt", "messages", "webdataset"):
        export(build, root / format, format=format, max_shard_bytes=5000)
    return root


def loaded(kind: str, files: Path | str, **options: Any) -> Any:
    return load_dataset(kind, data_files=str(files), split="train", **options)


def test_datasets_reads_messages_by_the_folder_alone(exports: Path) -> None:
    rows = load_dataset(str(exports / "messages"), split="train")
    assert rows.features["images"] == List(Image())
    undecoded = rows.cast_column("images", List(Image(decode=False)))
    assert read_messages(list(undecoded)) == expected_of(mixed_rows())
    assert [image.size for image in rows[3]["images"]] == [(38, 42), (24, 20)]


def test_datasets_reads_json_lines_that_begin_with_text_alone(tmp_path: Path) -> None:
    """Types come from the first chunk of a file, which here is as long as some rows."""
    rows = [instruct_row(f"{n}", "Why?" * 10, "So.") for n in range(50)]
    rows += [instruct_row("last", "<image>", "A cat.", images=[make_picture(0)])]
    export(write_fake_build(tmp_path / "build", rows), tmp_path / "out", format="sharegpt")
    found = loaded("json", tmp_path / "out/conversations.jsonl", chunksize=1000)
    assert found.features["images"] == List(TEXT)
    assert found["id"] == ["last", *map(str, range(50))]
    assert [len(images) for images in found["images"]] == [1] + [0] * 50


def test_datasets_reads_the_json_of_llava(exports: Path, tmp_path: Path) -> None:
    rows = [row for row in mixed_rows() if len(row["images"]) == 1]
    export(write_fake_build(tmp_path / "build", rows), tmp_path / "out", format="llava")
    found = loaded("json", tmp_path / "out/conversations.json")
    assert [[t["value"] for t in turns] for turns in found["conversations"]] == [
        texts for texts, _ in expected_of(rows)
    ]


def test_datasets_reads_tars_by_the_members_that_export_json_tells(exports: Path) -> None:
    members = json.loads((exports / "webdataset/export.json").read_text())["members"]
    kinds = {name: TOLD if name == "json" else Image(decode=False) for name in members}
    features = Features({"__key__": TEXT, "__url__": TEXT, **kinds})
    rows = loaded("webdataset", exports / "webdataset/*.tar", features=features)
    found = [
        (
            [m["content"] for m in row["json"]["messages"]],
            [sha256(row[name]["bytes"]).hexdigest() for name in row["json"]["images"]],
        )
        for row in rows
    ]
    assert found == expected_of(mixed_rows())


def test_the_index_finds_every_sample_and_every_member(exports: Path) -> None:
    out = exports / "webdataset"
    with sqlite3.connect(out / ".nv-meta/index.sqlite") as connection:
        samples = connection.execute("SELECT * FROM samples").fetchall()
        parts = connection.execute("SELECT * FROM sample_parts").fetchall()
    assert [sample[1] for sample in samples] == [f"{n:09d}" for n in range(6)]
    tars = sorted(out.glob("*.tar"))
    members = {}
    for number, tar in enumerate(tars):
        content = tar.read_bytes()
        own = [sample for sample in samples if sample[0] == number]
        ends = [start + size for *_, start, size in own]
        offsets = struct.unpack(f"{len(own) + 1}Q", tar.with_suffix(".tar.idx").read_bytes())
        assert list(offsets) == [sample[3] for sample in own] + ends[-1:]
        for _, key, index, start, size in own:
            with tarfile.open(fileobj=io.BytesIO(content[start : start + size])) as alone:
                names = alone.getnames()
            there = [p for p in parts if p[:2] == (number, index)]
            assert names == [f"{key}.{part[2]}" for part in there]
            for _, _, name, at, length in there:
                members[f"{key}.{name}"] = content[at : at + length]
    with tarfile.open(tars[0]) as whole:
        held = {m.name: (whole.extractfile(m) or io.BytesIO()).read() for m in whole}
    assert {name: members[name] for name in held} == held
    assert len(members) == 11


def test_the_metadata_names_the_tars_and_how_samples_are_read(exports: Path) -> None:
    folder = exports / "webdataset/.nv-meta"
    tars = [f"train-{n:06d}.tar" for n in range(4)]
    info = json.loads((folder / ".info.json").read_text())
    assert info == {
        "energon_version": "7.4.1",
        "shard_counts": dict(zip(tars, [2, 1, 1, 2], strict=True)),
    }
    splits = yaml.safe_load((folder / "split.yaml").read_text())
    assert splits == {"split_parts": {"train": tars, "val": [], "test": []}, "exclude": []}
    assert yaml.safe_load((folder / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon",
        "__class__": "CrudeWebdataset",
        "subflavors": {"data_set": "llava_instruct_default", "version": "1.0.0"},
    }


def test_trl_makes_batches_of_rows_with_and_without_images(
    exports: Path, request: pytest.FixtureRequest
) -> None:
    sft = pytest.importorskip("trl.trainer.sft_trainer")
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(request.getfixturevalue("tiny_llava"))
    rows = load_dataset(str(exports / "messages"), split="train")
    collate = sft.DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=False)
    batch = collate(list(rows))
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    per_image = (32 // 8) ** 2
    assert len(batch["pixel_values"]) == 5
    counts = (batch["input_ids"] == image).sum(-1).tolist()
    assert counts == [per_image * n for n in (0, 1, 1, 2, 0, 1)]
    assert len(collate([rows[0], rows[4]])["input_ids"]) == 2  # a batch of text alone


def test_trl_fills_the_placeholders_in_order(exports: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    for row in load_dataset(str(exports / "messages"), split="train"):
        filled = data_utils.prepare_multimodal_messages(row["messages"], images=row["images"])
        shown = [p["image"] for m in filled for p in m["content"] if p["type"] == "image"]
        assert all(a is b for a, b in zip(shown, row["images"], strict=True))


def test_energon_loads_every_sample(exports: Path) -> None:
    energon = pytest.importorskip("megatron.energon")

    @energon.edataclass
    class Chat(energon.Sample):  # type: ignore[misc,name-defined]
        images: list
        messages: list

    @energon.stateless
    def cook(sample: dict) -> Chat:
        told = sample["json"]
        return Chat(
            **energon.basic_sample_keys(sample),
            images=[sample[name] for name in told["images"]],
            messages=told["messages"],
        )

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc,name-defined]
        decoder = energon.SampleDecoder(image_decode="pilrgb")
        cookers = (energon.Cooker(cook),)

        def batch(self, samples: list) -> list:
            return samples

    data = energon.get_train_dataset(
        exports / "webdataset",
        batch_size=4,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=Encoder(),
        repeat=False,
    )
    loader = energon.get_loader(data)
    found = sorted((s for batch in loader for s in batch), key=lambda s: s.__key__)
    texts = [[m["content"] for m in sample.messages] for sample in found]
    assert texts == [texts for texts, _ in expected_of(mixed_rows())]
    for sample, row in zip(found, mixed_rows(), strict=True):
        pictures = [Pictures.open(io.BytesIO(i["bytes"])).convert("RGB") for i in row["images"]]
        assert [i.tobytes() for i in sample.images] == [i.tobytes() for i in pictures]


@pytest.mark.slow
def test_energon_prepare_makes_the_same_index(exports: Path, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon")
    tars = sorted((exports / "webdataset").glob("*.tar"))
    for tar in tars:
        (tmp_path / tar.name).write_bytes(tar.read_bytes())
    options = "--non-interactive --no-progress --num-workers 1 --split-ratio 1,0,0 --sample-type"
    energon = Path(sys.executable).with_name("energon")
    subprocess.run(
        [energon, "prepare", *options.split(), "CrudeWebdataset", tmp_path], check=True, timeout=100
    )
    contents = []
    for folder in (tmp_path, exports / "webdataset"):
        with sqlite3.connect(folder / ".nv-meta/index.sqlite") as connection:
            rows = [
                sorted(connection.execute(f"SELECT * FROM {table}").fetchall())
                for table in ("samples", "sample_parts")
            ]
        offsets = [(folder / tar.name).with_suffix(".tar.idx").read_bytes() for tar in tars]
        kept = [yaml.safe_load((folder / ".nv-meta/split.yaml").read_text())["exclude"]]
        counts = json.loads((folder / ".nv-meta/.info.json").read_text())
        contents.append((rows, offsets, kept, counts))
    assert contents[0] == contents[1]

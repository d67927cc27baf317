"""The training feed against LLaVA's way and plain webdataset: the same photos, the same processor,
the same tokens.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from vila2data.build.views import connect
from vila2data.corpus.read import read_corpus
from vila2data.training.feed.feed import Collator, Feed
from vila2data.training.feed.pictures import scaled
from vila2data.training.feed.plan import Plan
from vila2data.training.feed.planning import make_plan
from vila2data.training.feed.spec import FeedSpec
from vila2data.training.tiny import tiny_tokenizer

from .corpora import make_build, make_corpus
from .timing import seconds_in_turn, show

IMAGES = 1024
SHARDS = 8
SIZE_PX = (640, 480)
BATCH = 16
WORKERS = 2
ROUNDS = 3
SIDE_PX, PATCH_PX = 336, 14
IMAGE_TOKENS = (SIDE_PX // PATCH_PX) ** 2
IGNORED = -100


def clip_processor(images: type[Any]) -> Any:
    """LLaVA-1.5's: 336 px, 576 tokens an image."""
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return transformers.LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images(size={"shortest_edge": SIDE_PX}, crop_size=size),
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def encode(processor: Any, image: Image.Image, caption: str) -> dict[str, torch.Tensor]:
    """One sample as LLaVA makes it: pixels by the stock processor, ids, labels."""
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    tokens = processor.tokenizer(f"{caption}</s>", add_special_tokens=False)["input_ids"]
    image_ids = [processor.image_token_id] * IMAGE_TOKENS
    return {
        "input_ids": torch.tensor(image_ids + tokens),
        "labels": torch.tensor([IGNORED] * IMAGE_TOKENS + tokens),
        "pixel_values": pixels,
    }


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pads to the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([s["input_ids"] for s in samples], batch_first=True, padding_value=0)
    labels = pad([s["labels"] for s in samples], batch_first=True, padding_value=IGNORED)
    pixels = torch.stack([s["pixel_values"] for s in samples])
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": ids.ne(0),
        "pixel_values": pixels,
    }


class ListOfFiles(Dataset[dict[str, torch.Tensor]]):
    """A JSON list in memory, and one image file for each entry."""

    def __init__(self, folder: Path, processor: Any) -> None:
        self.folder = folder
        self.processor = processor
        self.entries = json.loads((folder / "list.json").read_text())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        entry = self.entries[position]
        image = Image.open(self.folder / entry["image"]).convert("RGB")
        return encode(self.processor, image, entry["conversations"][1]["value"])


def as_files(corpus: Path, build: Path, folder: Path) -> dict[str, str]:
    """The corpus as LLaVA has it; returns the captions by key."""
    folder.mkdir()
    with connect(build) as connection:
        captions = dict(connection.execute("SELECT key, caption FROM round1").fetchall())
    entries = []
    for sample in read_corpus(corpus):
        (folder / f"{sample.key}.jpg").write_bytes(sample.image)
        texts = {"human": "<image>", "gpt": captions[sample.key]}
        turns = [{"from": who, "value": text} for who, text in texts.items()]
        entries.append({"id": sample.key, "image": f"{sample.key}.jpg", "conversations": turns})
    (folder / "list.json").write_text(json.dumps(entries))
    return captions


def drained(loader: Any, finish: Callable[[Any], Any] = lambda batch: batch) -> None:
    samples = 0
    for batch in loader:
        samples += len(finish(batch)["input_ids"])
    assert samples == IMAGES


def llava_way(folder: Path, processor: Any) -> None:
    entries = ListOfFiles(folder, processor)
    drained(
        DataLoader(entries, BATCH, shuffle=True, num_workers=WORKERS, collate_fn=collate),
    )


def webdataset_way(corpus: Path, processor: Any, captions: dict[str, str]) -> None:
    def to_sample(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        return encode(processor, sample["jpg"], captions[sample["__key__"]])

    shards = [str(shard) for shard in sorted(corpus.glob("*.tar"))]
    read = webdataset.WebDataset(shards, shardshuffle=SHARDS, empty_check=False)
    batches = read.shuffle(256).decode("pil").map(to_sample).batched(BATCH, collation_fn=collate)
    drained(webdataset.WebLoader(batches, batch_size=None, num_workers=WORKERS))


def feed_way(plan: Plan, processor: Any) -> None:
    collator = Collator(processor, context_tokens=4096)
    finish = partial(scaled, scale=collator.pictures.late_scale)
    drained(DataLoader(Feed(plan), BATCH, num_workers=WORKERS, collate_fn=collator), finish)  # type: ignore[arg-type]


def compare(folder: Path, corpus: Path, build: Path, images: type[Any]) -> None:
    """One table: the three ways with one kind of image processor."""
    processor = clip_processor(images)
    files = folder / f"files-{images.__name__}"
    captions = as_files(corpus, build, files)
    spec = {"sources": [{"build": build, "config": "round1", "corpus": corpus, "form": "plain"}]}
    plan_folder = folder / f"plan-{images.__name__}"
    plan = make_plan(FeedSpec.model_validate(spec), processor, plan_folder, seed=0, batch=BATCH)
    ways = {
        "LLaVA: JSON list, a file an image": lambda: llava_way(files, processor),
        "webdataset": lambda: webdataset_way(corpus, processor, captions),
        "the feed": lambda: feed_way(plan, processor),
    }
    seconds = seconds_in_turn(ways, rounds=ROUNDS)
    tokens = plan.tokens / plan.samples
    title = (
        f"{IMAGES:,} photos of {SIZE_PX[0]} × {SIZE_PX[1]}, {images.__name__}, {WORKERS} workers, "
        f"{tokens:,.0f} tokens a sample"
    )
    show(title, IMAGES, "samples", seconds, against="webdataset")


def held_mib(what: str) -> float:
    """A figure of /proc/self/status; unlike getrusage's, it knows nothing of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def measure(corpus: Path, build: Path, folder: Path) -> None:
    """Prints the peak of planning, and the pages of its own after reading a thousand sequences:
    those of mapped files come and go.
    """
    processor = clip_processor(transformers.CLIPImageProcessorPil)
    spec = {"sources": [{"build": build, "config": "round1", "corpus": corpus, "form": "plain"}]}
    plan = make_plan(FeedSpec.model_validate(spec), processor, folder / "plan", seed=0, batch=BATCH)
    planned_mib = held_mib("VmHWM")
    feed = Feed(plan)
    for position in range(0, len(feed), max(1, len(feed) // 1000)):
        feed[position]
    print(plan.samples, planned_mib, held_mib("RssAnon"))


def show_memory() -> None:
    print("\n### Memory of the feed\n\n| rows | peak of planning, MiB | reading, own pages, MiB |")
    print("|---:|---:|---:|")
    for images in (2_000, 8_000, 32_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus = make_corpus(folder / "corpus", images=images, shards=8, size_px=(16, 16))
            build = make_build(corpus, folder)
            command = [sys.executable, "-m", "benchmarks.feed", str(corpus), str(build), name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        samples, planned, reading = done.stdout.split()[:3]
        print(f"| {int(samples):,} | {float(planned):,.0f} | {float(reading):,.0f} |")


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(folder / "corpus", images=IMAGES, shards=SHARDS, size_px=SIZE_PX)
        build = make_build(corpus, folder)
        compare(folder, corpus, build, transformers.CLIPImageProcessorPil)
        compare(folder, corpus, build, transformers.CLIPImageProcessor)
    show_memory()


if __name__ == "__main__":
    measure(*map(Path, sys.argv[1:]))

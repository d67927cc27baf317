"""The ten sources of LLaVA-1.5's mixture as their publishers lay them out, at any scale, and what a
build must make of them.

At scale 1.0 every source has the published numbers of records and photos.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixture_sources as sources
from mixture_files import Expected, Photos, coco_name, draw_pictures, gqa_name, vg_name, write_json

PUBLISHED = {
    "llava_instruct_150k": 157_712,
    "sharegpt": 40_688,
    "vqav2": 82_783,
    "gqa": 72_140,
    "okvqa": 8_998,
    "ocrvqa": 80_000,
    "aokvqa": 66_160,
    "textcaps": 21_953,
    "refcoco": 48_447,
    "vg": 86_417,
}
"""Rows of LLaVA-1.5's published file, by source."""


@dataclass(frozen=True)
class Mixture:
    """Where the sources are, and what they must give."""

    root: Path
    images: Path
    expected: dict[str, Expected]
    cap: int

    def sources(self) -> dict[str, dict[str, Any]]:
        """The block ``sources`` of a recipe."""
        entries: dict[str, dict[str, Any]] = {
            name: {"images": str(self.images), "wanted": expected.rows}
            for name, expected in self.expected.items()
        }
        entries["llava_instruct_150k"]["images"] = str(self.images / "coco" / "train2017")
        entries["ocrvqa"] = {"cap": self.cap, "wanted": self.expected["ocrvqa"].rows}
        for name in ("sharegpt", "textcaps"):
            del entries[name]["images"]
        return entries


def make_mixture(
    folder: Path, scale: float, *, missing_every: int | None = None, gif_every: int | None = None
) -> Mixture:
    """Writes all ten sources below ``folder/sources`` and their photos below ``folder/images``.

    Args:
        folder: for both.
        scale: 1.0 for the published numbers; at least one of everything.
        missing_every: of so many photos one is not there.
        gif_every: of so many photos one is a GIF.
    """

    def at(number: int) -> int:
        return max(1, round(number * scale))

    photos = Photos(folder / "images", missing_every, gif_every)
    draw_pictures(photos.folder / "pictures")
    # A photo of COCO may be of any of five sources, the greatest of which has them all.
    photos.link(range(at(82_783)), coco_name)
    photos.link(range(at(72_140)), gqa_name)
    root = folder / "sources"
    expected = {
        "llava_instruct_150k": sources.llava(root, photos, at(157_712), at(81_479)),
        "sharegpt": sources.sharegpt(root, at(40_688)),
        "vqav2": sources.vqav2(root, photos, at(443_757), at(82_783)),
        "gqa": sources.gqa(root, photos, at(943_000), at(72_140)),
        "okvqa": sources.okvqa(root, photos, at(9_009), at(8_998)),
        "ocrvqa": sources.ocrvqa(root, at(166_022), at(80_000)),
        "aokvqa": sources.aokvqa(root, photos, at(17_056), at(16_540)),
        "textcaps": sources.textcaps(root, at(21_953)),
        "refcoco": sources.refcoco(root, photos, at(48_447), at(16_994)),
        "vg": sources.vg(root, photos, at(108_077), at(86_417)),
    }
    return Mixture(root, photos.folder, expected, at(80_000))


def make_published(folder: Path, scale: float) -> list[dict[str, Any]]:
    """Writes ``llava_v1_5_mix665k.json`` below ``folder/sources`` and its photos below
    ``folder/images``; returns its records.

    Ids are texts and numbers, conversations without a photo have a ``model``, as in the real file.
    """
    photos = Photos(folder / "images", None, None)
    draw_pictures(photos.folder / "pictures")
    photos.link(range(max(1, round(82_783 * scale))), coco_name)
    photos.link(range(max(1, round(72_140 * scale))), gqa_name)
    photos.link(range(max(1, round(86_417 * scale))), vg_name)
    counts = {name: max(1, round(rows * scale)) for name, rows in PUBLISHED.items()}
    records = [record for name, rows in counts.items() for record in _published(name, rows, scale)]
    file = folder / "sources" / "llava_v1_5_mix665k" / "llava_v1_5_mix665k.json"
    write_json(file, (json.dumps(record, ensure_ascii=False) for record in records))
    return records


def _published(source: str, rows: int, scale: float) -> Iterator[dict[str, Any]]:
    name_of = {"gqa": gqa_name, "vg": vg_name}.get(source, coco_name)
    photos = max(1, round({"gqa": 72_140, "vg": 86_417}.get(source, 82_783) * scale))
    for number in range(rows):
        asked = [(f"What is {source} {number} {n}?", f"It’s {n}.") for n in range(1 + number % 3)]
        if source == "sharegpt":
            yield {"id": f"s{number}_0", "model": "", "conversations": sources.turns(asked)}
            continue
        if source == "llava_instruct_150k" and number % 50 == 0:
            asked[0] = ("What does <s> mean?\nUSER: says so", "See [INST] and <|im_end|>.")
        asked[0] = (f"<image>\n{asked[0][0]}", asked[0][1])
        image = name_of(number % photos)
        stem = image.rpartition("/")[2].partition(".")[0]
        yield {
            "id": int(stem) if source == "gqa" else stem,
            "image": image,
            "conversations": sources.turns(asked),
        }

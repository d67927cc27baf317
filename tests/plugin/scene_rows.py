"""Makes small builds of `scenes` with their corpus, without rendering: coloured squares on a grid."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from vila2data.build.manifest import MANIFEST_FILE, BuildFile, Manifest
from vila2data.files import file_sha256
from vila2data.schema import SCENES

SIDE_PX = 48
FOCAL_PX = 48.0
COLORS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (40, 60, 230)}
SHAPES = ("cube", "ball", "cone")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
FLOORS = {"gray": (120, 120, 120), "wooden": (150, 100, 50)}
WALLS = {"white": (240, 240, 240), "dark": (40, 40, 40)}


def a_thing(
    color: str,
    shape: str,
    x: float = 0.0,
    z: float = 4.0,
    *,
    size: str = "small",
    material: str = "matte",
) -> dict[str, Any]:
    """An object whose centre is at (x, 0.5, z) metres; its box follows from that."""
    half = (0.4 if size == "large" else 0.2) / z
    u, v = 0.5 + x / z, 0.5 + 0.5 / z
    box = [max(u - half, 0.0), max(v - half, 0.0), min(u + half, 1.0), min(v + half, 1.0)]
    return {
        "words": {"shape": shape, "color": color, "size": size, "material": material},
        "bbox": box,
        "center": [x, 0.5, z],
    }


def a_row(key: str, things: Sequence[Mapping[str, Any]], **columns: Any) -> dict[str, Any]:
    """A row of those things; its image is drawn by ``picture_of``."""
    row = {
        "key": key,
        "width": SIDE_PX,
        "height": SIDE_PX,
        "intrinsics": [FOCAL_PX, 0, SIDE_PX / 2, 0, FOCAL_PX, SIDE_PX / 2, 0, 0, 1],
        "objects": [
            {
                "category": thing["words"]["shape"],
                "bbox": thing["bbox"],
                "center": thing["center"],
                "dimensions": [0.4, 0.4, 0.4],
                "rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
            }
            for thing in things
        ],
        "attributes": [{**thing["words"], "visibility": 1.0} for thing in things],
        "floor": "gray",
        "wall": "white",
        "alt_text": f"{key}.png",
        "reference": None,
        "questions": [],
        "messages": None,
        **columns,
    }
    return {"image_sha256": sha256(picture_of(row)).hexdigest(), **row}


def picture_of(row: Mapping[str, Any]) -> bytes:
    """Wall above, floor below, a square for each object; PNG. A row whose objects are broken is
    drawn without them.
    """
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), WALLS.get(row["wall"], (0, 0, 0)))
    pen = ImageDraw.Draw(picture)
    floor = FLOORS.get(row["floor"], (0, 0, 0))
    pen.rectangle((0, SIDE_PX // 2, SIDE_PX, SIDE_PX), fill=floor)
    for place, words in zip(row["objects"] or (), row["attributes"] or (), strict=False):
        if place["bbox"] and None not in place["bbox"]:
            box = [number * SIDE_PX for number in place["bbox"]]
            pen.rectangle(box, fill=COLORS.get(words["color"], (0, 0, 0)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def described(row: Mapping[str, Any]) -> str:
    """A true description that says all that captions are held against, and nothing twice."""
    things = list(zip(row["objects"], row["attributes"], strict=True))
    number = ("zero", "one", "two", "three", "four", "five")[len(things)]
    sentences = [
        f"There are {number} objects on a {row['floor']} floor before a {row['wall']} wall."
    ]
    for place, words in things:
        name = f"{words['size']} {words['material']} {words['color']} {words['shape']}"
        sentences.append(f"A {name} stands {_where(place['bbox'])}.")
    for (a, a_words), (b, b_words) in pairwise(things):
        side = (
            "left" if a["center"][0] / a["center"][2] < b["center"][0] / b["center"][2] else "right"
        )
        first, second = (f"{w['color']} {w['shape']}" for w in (a_words, b_words))
        sentences.append(f"The {first} is to the {side} of the {second}.")
    return " ".join(sentences)


def _where(bbox: Sequence[float]) -> str:
    middle = (bbox[0] + bbox[2]) / 2
    return (
        "on the left" if middle < 1 / 3 else "on the right" if middle > 2 / 3 else "in the middle"
    )


def drawn_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of two or three objects at different places, each with a reference and questions."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        wanted = int(rng.integers(2, 4))
        names = [(c, s) for c in COLORS for s in SHAPES]
        chosen = [names[n] for n in rng.permutation(len(names))[:wanted]]
        places = rng.permutation([-1.2, 0.0, 1.2])[:wanted]
        depths = rng.permutation([3.0, 4.0, 5.0])[:wanted]
        things = [
            a_thing(
                color,
                shape,
                float(x),
                float(z),
                size=str(rng.choice(SIZES)),
                material=str(rng.choice(MATERIALS)),
            )
            for (color, shape), x, z in zip(chosen, places, depths, strict=True)
        ]
        looks = {"floor": str(rng.choice(list(FLOORS))), "wall": str(rng.choice(list(WALLS)))}
        row = a_row(f"test-{number:05d}", things, **looks)
        row["reference"] = described(row)
        row["questions"] = _questions(row, things)
        rows.append(row)
    return rows


def _questions(row: Mapping[str, Any], things: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    first, second = things[:2]
    name, other = (f"{t['words']['color']} {t['words']['shape']}" for t in (first, second))
    left = first["center"][0] / first["center"][2] < second["center"][0] / second["center"][2]
    front = first["center"][2] < second["center"][2]
    asked = [
        (f"Is there a {name}?", "yes", "existence"),
        ("Is there a red ring?", "no", "existence"),
        ("How many objects are there?", str(len(things)), "count"),
        ("What is the floor like?", row["floor"], "floor"),
        (f"Is the {name} left or right of the {other}?", "left" if left else "right", "side"),
        (f"Where is the {name} seen from the {other}?", "front" if front else "behind", "depth"),
    ]
    return [{"question": q, "answer": a, "kind": k} for q, a, k in asked]


def write_scenes(
    folder: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    data_set: str = "scenes",
    schema: pa.Schema | None = None,
) -> Path:
    """A build of these rows by config; returns its folder."""
    entries = []
    for config, of_config in rows.items():
        path = folder / "data" / config / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        table = pa.Table.from_pylist(list(of_config), schema=schema or SCENES.arrow_schema)
        pq.write_table(table, path)
        relative, size = path.relative_to(folder).as_posix(), path.stat().st_size
        entries.append(
            BuildFile(relative, config, "train", len(of_config), size, file_sha256(path))
        )
    manifest = Manifest(
        data_set, "1.0.0", 5, "cc0-1.0", next(iter(rows)), {}, [], {}, entries, [], {}
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


def write_corpus(
    folder: Path, rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes] | None = None
) -> Path:
    """One tar of the rows' pictures and alt-texts; ``pictures`` take the place of drawn ones."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for row in rows:
            picture = (pictures or {}).get(row["key"]) or picture_of(row)
            texts = {"txt": row["alt_text"].encode(), "json": json.dumps({}).encode()}
            for suffix, content in {"png": picture, **texts}.items():
                member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def make_scenes(root: Path, count: int = 6, seed: int = 0) -> tuple[Path, Path]:
    """A build of ``count`` test rows and its corpus, in folders of ``root``."""
    rows = drawn_rows(count, seed)
    build = write_scenes(root / "scenes" / "1.0.0", {"test": rows})
    return build, write_corpus(root / "corpus", rows)

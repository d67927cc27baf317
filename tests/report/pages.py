"""Makes builds by hand, and reads the page of a report."""

import io
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vila2data.build.manifest import MANIFEST_FILE, BuildFile, FunnelStep, Manifest
from vila2data.files import file_sha256
from vila2data.schema import features_of
from vila2data.stats.signals import signals_of


def image_bytes(width=64, height=48, colour=(200, 30, 30), form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, form)
    return buffer.getvalue()


def make_build(folder: Path, data_set: str, tables: dict[str, list[dict]], **changes) -> Path:
    """A build by hand: rows of each config, with the schema's columns."""
    files = []
    for config, rows in tables.items():
        schema = features_of(data_set, config)[0].arrow_schema
        path = folder / "data" / config / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=5_000)
        relative = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        files.append(BuildFile(relative, config, "train", len(rows), size, file_sha256(path)))
    manifest = {
        "data_set": data_set,
        "version": "1.0.0",
        "schema_version": 1,
        "license": "cc0-1.0",
        "default_config": next(iter(tables)),
        "recipe": {"builder": data_set, "seed": 0},
        "sources": [{"corpus": "corpus", "shards": 1}],
        "packages": {"vila2data": "0.1.0"},
        "files": files,
        "funnel": [FunnelStep("read the corpus", 4, 3, {"image_empty": 1})],
        "stats": {},
    }
    (folder / MANIFEST_FILE).write_text(Manifest(**(manifest | changes)).to_json(), "utf-8")
    return folder


def caption(key, text, *, round=0, original="a photo", task="general", reason=None, **values):
    """A row of a caption config, of its rejects where there is a reason."""
    signals = signals_of(text)
    row = {
        "key": key,
        "original": original,
        "caption": text,
        "task": task,
        "round": round,
        **{name: getattr(signals, name) for name in signals.__slots__},
    }
    if round:
        told = {"captioner": "tiny", "captioner_revision": "sha256:12", "engine": "fake 1.0"}
        row |= told | {"prompt_id": "long-v1", "seed": 7, "finish_reason": "stop", "num_tokens": 9}
    if reason is not None:
        row["reject_reason"] = reason
    return row | values


class Element:
    """One element of a page with its attributes and the text in it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.text = tag, attributes, ""

    def __getitem__(self, name):
        return self.attributes.get(name)

    @property
    def classes(self):
        return (self["class"] or "").split()


class Page(HTMLParser):
    """A page's elements in order."""

    _EMPTY = ("meta", "link", "img", "br", "input")

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self._open = html, [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in self._EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag, f"{tag} closes something else"

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag, of_class=None):
        return [
            e for e in self.elements if e.tag == tag and (of_class is None or of_class in e.classes)
        ]

    def ids(self):
        return [e["id"] for e in self.elements if e["id"]]

    def table(self, title):
        """Header and rows of the table in the box with that title."""
        start = next(n for n, e in enumerate(self.elements) if e.tag == "h4" and e.text == title)
        following = self.elements[start:]
        end = next((n for n, e in enumerate(following[1:]) if e.tag in ("h3", "h4")), None)
        rows, header = [], []
        for element in following[: None if end is None else end + 1]:
            if element.tag == "th":
                header.append(element.text)
            elif element.tag == "tr":
                rows.append([])
            elif element.tag == "td":
                rows[-1].append(element.text)
        return header, [row for row in rows if row]


def solid(center, dimensions=(1.0, 1.0, 1.0), category="car", **values):
    """An object of ``spatial-relation-qa`` that stands upright."""
    return {
        "category": category,
        "bbox": [0.4, 0.4, 0.6, 0.6],
        "center": list(center),
        "dimensions": list(dimensions),
        "rotation": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
    } | values


def asked(anchor, target, **values):
    """A relation of ``spatial-relation-qa``."""
    relation = {"relation": "left_of", "family": "object_object", "candidates": [anchor, target]}
    return relation | {"anchor": anchor, "target": target, "gap": 1.0, "template_id": "t"} | values


def space_row(objects, relations=(), key="s1", **values):
    """A row of 200 x 100 pixels with a focal length of 100 px."""
    turns = [{"role": role, "content": "."} for _ in relations for role in ("user", "assistant")]
    values = {"width": 200, "height": 100, "messages": turns} | values
    intrinsics = [100.0, 0, 100, 0, 100, 50, 0, 0, 1]
    given = {"objects": list(objects), "relations": list(relations), "intrinsics": intrinsics}
    return scene(key, **(given | values))


def scene(key="s1", boxes=((0.25, 0.5, 0.5, 1.0), (0.0, 0.0, 0.1, 0.2)), **values):
    """A row of ``spatial-relation-qa``."""
    geometry = {
        "center": [0, 0, 5],
        "dimensions": [1, 1, 1],
        "rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }
    relation = {"relation": "left_of", "family": "object_object", "anchor": 0, "target": 1}
    return {
        "id": key,
        "image": {"bytes": image_bytes(640, 320), "path": None},
        "width": 640,
        "height": 320,
        "source": "made",
        "objects": [
            {"category": name, "bbox": list(box), **geometry}
            for name, box in zip(["car", "tree", *["sign"] * 200], boxes, strict=False)
        ],
        "relations": [{**relation, "candidates": [0, 1], "gap": 1.5, "template_id": "t"}],
        "messages": [
            {"role": "user", "content": "<image>\nWhat is left of the car?"},
            {"role": "assistant", "content": "[0.000, 0.000, 0.100, 0.200]"},
        ],
        "flip_safe": True,
    } | values


def phrase(text, boxes, start=0, *, score=0.5):
    """A phrase of ``grounded-narration``."""
    end = None if text is None or start is None else start + len(text)
    boxes = [list(box) for box in boxes]
    return {"text": text, "start": start, "end": end, "boxes": boxes, "score": score}


def grounded(key, caption, phrases=(), **values):
    """A row of ``grounded-narration`` whose build was made without a corpus."""
    row = {"key": key, "caption": caption, "width": 200, "height": 100, "phrases": list(phrases)}
    return row | values

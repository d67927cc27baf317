"""Boxes with descriptions.

A region has no question: it is worded, by draw, as a box to describe or as a text to locate. How
LLaVA-1.5's published turns spell it, and how well that is known:

- ``[0.28, 0.34, 0.4, 0.71]``: two decimals, of which a last zero is dropped but not the only one
  (``0.7``, ``1.0``). Seen in every published turn at hand.
- As an answer a description starts with a capital and ends with a full stop ("Red jacket."), where
  RefCOCO's own text has neither; in a question it stands as it is, with a full stop. Seen in six
  of six turns of RefCOCO and in four of four of Visual Genome.
- Descriptions of one image that are the same stand twice. Seen once.
- Boxes are of the image padded to a square around its centre, as LLaVA's processor pads it. The
  people who compared published boxes with their images agree on that for Visual Genome, and
  loaders of others undo the padding (haotian-liu/LLaVA #606, #1833). For RefCOCO they disagree
  (#623, #822): one report that the boxes are of the image itself, since withdrawn, and one that
  was not. No author has answered. The annotation here holds the box of the image itself, and the
  rule ``boxes_in`` decides how it is written.
"""

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from vila2data.blend.annotation import Annotation, Box, Exchange
from vila2data.corpus.images import Problem

from .choices import coco_photo
from .fields import image_of, text_of
from .layout import Layout, Record
from .texts import name_of


def read_refcoco(record: Record) -> Iterator[Annotation | Problem]:
    """An object of a photo of COCO, and what people call it.

    The published references are a pickle, which is not read: it can run code. Accepted are their
    rows as JSON with ``bbox`` [x, y, width, height] in pixels and the photo's ``width`` and
    ``height``; or the rows of ``jxu124/refcoco`` and its kind on the Hub, whose ``raw_anns`` and
    ``raw_image_info`` hold these as JSON text (and whose own ``bbox`` is xyxy).
    """
    split = text_of(record.get("split"))
    image = image_of(record.get("image")) or coco_photo(record.get("image_id"))
    given = record.get("sentences")
    box = _refcoco_box(record)
    if split is not None and not split.casefold().startswith("train"):
        yield Problem("not_training", f"is of the split {split}")
    elif image is None:
        yield Problem("image_missing", "image_id: is no number of a photo")
    elif isinstance(box, Problem):
        yield box
    elif not isinstance(given, list) or not given:
        yield Problem("answer_missing", "sentences: is no list")
    else:
        said = [text_of(s.get("sent") if isinstance(s, Mapping) else s) for s in given]
        texts = [text for text in said if text is not None]
        if len(texts) < len(said):
            yield Problem("answer_missing", f"{len(said) - len(texts)} of {len(said)} sentences")
        if texts:
            name = text_of(record.get("ref_id")) or name_of(str(box), *texts)
            yield _about(image, name, [Exchange("", text, box=box) for text in texts])


def read_visual_genome(record: Record) -> Iterator[Annotation | Problem]:
    """A photo of Visual Genome with the descriptions of its regions.

    The photo's ``width``, ``height`` and ``url`` come from ``image_data.json``. Its name is that of
    LLaVA's folder of images, ``vg/VG_100K/1.jpg`` or ``vg/VG_100K_2/1.jpg``, as the URL ends.
    """
    regions, image = record.get("regions"), _vg_photo(record)
    if image is None:
        yield Problem("image_missing", "url: does not end in a folder and a file")
        return
    if not isinstance(regions, list) or not regions:
        yield Problem("answer_missing", "regions: is no list")
        return
    exchanges = []
    for region in regions:
        found = _described(region, record)
        if isinstance(found, Problem):
            yield found
        else:
            exchanges.append(found)
    if exchanges:
        told = text_of(record.get("id", record.get("image_id")))
        name = image.removeprefix("vg/").rpartition(".")[0] if isinstance(image, str) else told
        yield _about(image, name or name_of(*(e.answer for e in exchanges)), exchanges)


def _described(region: object, record: Record) -> Exchange | Problem:
    if not isinstance(region, Mapping):
        return Problem("box_unusable", "a region is no object")
    phrase = text_of(region.get("phrase"))
    xywh = [region.get(key) for key in ("x", "y", "width", "height")]
    box = _box(xywh, record.get("width"), record.get("height"))
    if phrase is None:
        return Problem("answer_missing", f"region {text_of(region.get('region_id'))}")
    return box if isinstance(box, Problem) else Exchange("", phrase, box=box)


def _vg_photo(record: Record) -> str | bytes | None:
    held = image_of(record.get("image"))
    parts = (text_of(record.get("url")) or "").split("/")
    if held is not None or len(parts) < 2 or not parts[-1].partition(".")[0]:
        return held
    return f"vg/{parts[-2]}/{parts[-1]}"


def _refcoco_box(record: Record) -> Box | Problem:
    annotation, info = _decoded(record.get("raw_anns")), _decoded(record.get("raw_image_info"))
    xywh = annotation.get("bbox") if annotation else record.get("bbox")
    size = info or record
    return _box(xywh, size.get("width"), size.get("height"))


def _decoded(text: object) -> Mapping[str, Any]:
    """The object that a text holds as JSON; empty where it holds none."""
    if not isinstance(text, str):
        return text if isinstance(text, Mapping) else {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _box(xywh: object, width: object, height: object) -> Box | Problem:
    """The part of a box in pixels that lies in the image, as xyxy 0-1 of it."""
    values = list(xywh) if isinstance(xywh, list | tuple) else []
    numbers = [number for number in map(_number, [*values, width, height]) if number is not None]
    if len(values) != 4 or len(numbers) != 6 or min(numbers[4:]) <= 0:
        return Problem(
            "box_unusable", "x, y, width, height and the image's size are not six numbers"
        )
    x, y, w, h, image_width, image_height = numbers
    left, right = (min(max(v / image_width, 0.0), 1.0) for v in (x, x + w))
    top, bottom = (min(max(v / image_height, 0.0), 1.0) for v in (y, y + h))
    if left >= right or top >= bottom:
        return Problem("box_unusable", f"{values} is empty in {image_width:g} x {image_height:g}")
    return left, top, right, bottom


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None


def _about(image: str | bytes, name: str, exchanges: list[Exchange]) -> Annotation:
    group = image if isinstance(image, str) else ""
    return Annotation(name, group, (image,), tuple(exchanges))


LAYOUTS: dict[str, Layout] = {
    "refcoco": Layout(
        read_refcoco,
        needs=("sentences",),
        may_have=(
            *("ref_id", "image_id", "image", "split", "bbox", "width", "height"),
            *("raw_anns", "raw_image_info"),
        ),
    ),
    "visual_genome": Layout(
        read_visual_genome,
        needs=("regions",),
        may_have=("id", "image_id", "url", "width", "height", "image"),
    ),
}

"""The columns of every published table, in one place.

``SCHEMA_VERSION`` counts changes to any of them; it stands in the manifest of each build.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa
from datasets import Features, Image, List, Value

from .build.manifest import REJECTS_SUFFIX
from .errors import BadInput, SchemaMismatch

SCHEMA_VERSION = 5

TASKS = ("general", "spatial", "grounding", "ocr")
FINISH_REASONS = ("stop", "length", "repetition", "error")

_STRING = Value("string")
_INT32 = Value("int32")
_INT64 = Value("int64")
_FLOAT32 = Value("float32")

MESSAGES = List({"role": _STRING, "content": _STRING})
"""Turns of a conversation; ``role`` is ``user`` or ``assistant``."""

QUALITY = Features(
    {
        "num_words": _INT32,
        "num_chars": _INT32,
        "num_sentences": _INT32,
        "distinct_ratio": _FLOAT32,
        "repeated_ngram_share": _FLOAT32,
        "compression_ratio": _FLOAT32,
        "list_format": Value("bool"),
    }
)
"""Signals of ``caption``, computed once when it is written; see ``vila2data.stats.signals``."""

CAPTION = Features(
    {
        "key": _STRING,
        "id": _INT64,
        "url": _STRING,
        "image_sha256": _STRING,
        "width": _INT32,
        "height": _INT32,
        "original": _STRING,
        "caption": _STRING,
        "task": _STRING,
        "round": _INT32,
        "captioner_round": _INT32,
        "captioner": _STRING,
        "captioner_revision": _STRING,
        "engine": _STRING,
        "prompt_id": _STRING,
        "template_id": _STRING,
        "seed": _INT64,
        "finish_reason": _STRING,
        "num_tokens": _INT32,
        **QUALITY,
    }
)
"""One row per (sample, task, round). ``round`` 0 is the original text, which no model wrote: its
captioner, engine, prompt, seed, finish reason and token count are null. ``captioner_round`` is the
round of the model that wrote, always ``round - 1``.
"""

REJECT = Features({**CAPTION, "reject_reason": _STRING})

CONVERSATION = Features(
    {
        "key": _STRING,
        "id": _INT64,
        "url": _STRING,
        "image_sha256": _STRING,
        "messages": MESSAGES,
        "tasks": List(_STRING),
        "question_ids": List(_STRING),
    }
)
"""``tasks`` and ``question_ids`` hold one entry per assistant turn; the first question is null
(plain caption).
"""

OBJECTS = List(
    {
        "category": _STRING,
        "bbox": List(_FLOAT32, length=4),
        "center": List(_FLOAT32, length=3),
        "dimensions": List(_FLOAT32, length=3),
        "rotation": List(_FLOAT32, length=9),
    }
)
"""``bbox`` xyxy 0-1 clipped to the image; ``center`` metres, camera frame x right, y down, z
forward; ``dimensions`` metres [w, h, l]; ``rotation`` row-major, box to camera.
"""

RELATIONS = List(
    {
        "relation": _STRING,
        "family": _STRING,
        "anchor": _INT32,
        "target": _INT32,
        "candidates": List(_INT32),
        "gap": _FLOAT32,
        "template_id": _STRING,
    }
)
"""One per question-answer pair, in order; ``anchor`` -1 is the camera; ``gap`` metres."""

INTRINSICS = List(_FLOAT32, length=9)
"""Row-major, for pixels of an image of ``width`` x ``height``; what projects ``objects``."""

_SPATIAL = {
    "id": _STRING,
    "image": Image(),
    "width": _INT32,
    "height": _INT32,
    "source": _STRING,
    "intrinsics": INTRINSICS,
    "objects": OBJECTS,
    "relations": RELATIONS,
    "messages": MESSAGES,
    "flip_safe": Value("bool"),
}

SPATIAL_REJECT = Features(
    {
        "id": _STRING,
        "source": _STRING,
        "image_path": _STRING,
        "object": _INT32,
        "category": _STRING,
        "reject_reason": _STRING,
        "detail": _STRING,
    }
)
"""A scene that was not used, or one box of it: ``object`` is its place in the source's list, and
null where the scene as a whole is meant.
"""

_PHRASES = List(
    {
        "text": _STRING,
        "start": _INT32,
        "end": _INT32,
        "boxes": List(List(_FLOAT32, length=4)),
        "score": _FLOAT32,
    }
)
"""``start`` and ``end`` characters of ``caption``, end exclusive; ``boxes`` xyxy 0-1."""

GROUNDED_NARRATION = Features(
    {
        "key": _STRING,
        "id": _INT64,
        "url": _STRING,
        "image_sha256": _STRING,
        "image_status": _STRING,
        "width": _INT32,
        "height": _INT32,
        "caption": _STRING,
        "clip_similarity_vitb32": _FLOAT32,
        "clip_similarity_vitl14": _FLOAT32,
        "phrases": _PHRASES,
        "grounded_caption": _STRING,
        "messages": MESSAGES,
        "question_ids": List(_STRING),
    }
)
"""``image_sha256`` and ``image_status`` are null where the build was made without a corpus;
``question_ids`` holds one entry per assistant turn.
"""

GROUNDED_REJECT = Features(
    {
        "key": _STRING,
        "id": _INT64,
        "url": _STRING,
        "width": _INT32,
        "height": _INT32,
        "caption": _STRING,
        "phrases": _PHRASES,
        "reject_reason": _STRING,
        "detail": _STRING,
    }
)
"""A row that was not used; ``phrases`` as the source has them, one for each box, null where they
are no text or no box of the caption.
"""

_INSTRUCT: dict[str, object] = {
    "id": _STRING,
    "source": _STRING,
    "task": _STRING,
    "license": _STRING,
    "images": List(Image()),
    "messages": MESSAGES,
    "origin": _STRING,
}

INSTRUCT_REJECT = Features(
    {
        "id": _STRING,
        "source": _STRING,
        "reject_reason": _STRING,
        "detail": _STRING,
    }
)
"""A record of a source, a question of it, or a conversation made of them, that was not used."""

ATTRIBUTES = List(
    {
        "shape": _STRING,
        "color": _STRING,
        "size": _STRING,
        "material": _STRING,
        "visibility": _FLOAT32,
    }
)
"""One per object, in the order of ``objects``; ``visibility`` is the share of the object's outline
within the image that nothing lies before.
"""

SCENES = Features(
    {
        "key": _STRING,
        "image_sha256": _STRING,
        "width": _INT32,
        "height": _INT32,
        "intrinsics": INTRINSICS,
        "objects": OBJECTS,
        "attributes": ATTRIBUTES,
        "floor": _STRING,
        "wall": _STRING,
        "alt_text": _STRING,
        "reference": _STRING,
        "questions": List({"question": _STRING, "answer": _STRING, "kind": _STRING}),
        "messages": MESSAGES,
    }
)
"""One rendered scene; its image is that of ``key`` in the corpus that was written with the build.
``reference`` and ``messages`` are null, ``questions`` empty, where the scene has none.
"""


def _with_paths(columns: Mapping[str, object], embedded: str, path: str, kind: object) -> Features:
    swapped = {
        path if n == embedded else n: kind if n == embedded else f for n, f in columns.items()
    }
    return Features(swapped)


SPATIAL_RELATION_QA = Features(_SPATIAL)
SPATIAL_RELATION_QA_PATHS = _with_paths(_SPATIAL, "image", "image_path", _STRING)
INSTRUCT = Features(_INSTRUCT)
INSTRUCT_PATHS = _with_paths(_INSTRUCT, "images", "image_paths", List(_STRING))

_COYO_RECAP: tuple[tuple[str, Features], ...] = (
    (r"(original|round[1-9]\d*|spatial|grounding|ocr)-rejects", REJECT),
    (r"original|round[1-9]\d*|spatial|grounding|ocr", CAPTION),
    (r"conversations", CONVERSATION),
)
_INSTRUCT_FORMS = (
    (rf".*{REJECTS_SUFFIX}", INSTRUCT_REJECT),
    (rf".*(?<!{REJECTS_SUFFIX})", INSTRUCT),
    (rf".*(?<!{REJECTS_SUFFIX})", INSTRUCT_PATHS),
)
_TABLES: MappingProxyType[str, tuple[tuple[str, Features], ...]] = MappingProxyType(
    {
        "coyo-recap": _COYO_RECAP,
        "spatial-relation-qa": (
            (rf".*{REJECTS_SUFFIX}", SPATIAL_REJECT),
            (rf".*(?<!{REJECTS_SUFFIX})", SPATIAL_RELATION_QA),
            (rf".*(?<!{REJECTS_SUFFIX})", SPATIAL_RELATION_QA_PATHS),
        ),
        "grounded-narration": (
            (r"short|long", GROUNDED_NARRATION),
            (rf"pool{REJECTS_SUFFIX}", GROUNDED_REJECT),
        ),
        "ocr-blend": _INSTRUCT_FORMS,
        "llava-instruct": _INSTRUCT_FORMS,
        "sft-blend": _INSTRUCT_FORMS,
        "scenes": ((r"train|test", SCENES),),
    }
)


def data_sets() -> list[str]:
    """The names of the published data sets."""
    return list(_TABLES)


def features_of(data_set: str, config: str) -> tuple[Features, ...]:
    """The forms that ``config`` of ``data_set`` may have: one, or two where images may be embedded
    or named.

    Raises:
        BadInput: the data set or the config is unknown.
    """
    if data_set not in _TABLES:
        raise BadInput(f"there is no data set '{data_set}'; known: {', '.join(_TABLES)}")
    forms = tuple(f for pattern, f in _TABLES[data_set] if re.fullmatch(pattern, config))
    if not forms:
        raise BadInput(f"data set '{data_set}' has no config '{config}'")
    return forms


def check_table(schema: pa.Schema, features: Features, *, where: str = "table") -> None:
    """Checks that a table has exactly the columns and types of ``features``, in any order.

    Args:
        schema: of an Arrow table or a parquet file.
        where: named in the message, for example the file.

    Raises:
        SchemaMismatch: a column is missing, unknown or of another type; the message names each.
    """
    expected = {field.name: field.type for field in features.arrow_schema}
    found = {field.name: field.type for field in schema}
    problems = [
        f"column '{name}' is {found[name]}, expected {kind}"
        if name in found
        else f"column '{name}' ({kind}) is missing"
        for name, kind in expected.items()
        if found.get(name) != kind
    ]
    problems += [
        f"column '{name}' ({found[name]}) is unknown" for name in found if name not in expected
    ]
    if problems:
        raise SchemaMismatch(f"{where}: " + "; ".join(problems))

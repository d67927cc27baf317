"""Ground truth: rows of a build of `scenes` with their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from vila2data.build.manifest import Manifest, read_manifest
from vila2data.build.views import connect, readable, sql_name, sql_text
from vila2data.corpus.images import ImageLimits, ImageRefused, decode
from vila2data.corpus.index import CorpusIndex
from vila2data.errors import BadInput, BuildError, CorpusError

CONFIG = "test"
CHOICE_KINDS = ("side", "depth")
"""Kinds of questions that are also answered by choosing the likelier of some texts."""

_DATA_SET = "scenes"
_THIRD = 1 / 3
_COLUMNS = (
    "key",
    "image_sha256",
    "objects",
    "attributes",
    "floor",
    "wall",
    "reference",
    "questions",
)

Pair = tuple[str, str]
"""Colour and shape: what names one object of a scene."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object.

    Attributes:
        bbox_norm: xyxy in 0-1.
        center: metres, camera frame x right, y down, z forward.
    """

    shape: str
    color: str
    size: str
    material: str
    bbox_norm: tuple[float, ...]
    center: tuple[float, ...]

    @property
    def pair(self) -> Pair:
        """What names it."""
        return self.color, self.shape

    @property
    def side(self) -> str:
        """The third of the image in which the middle of its box lies."""
        middle = (self.bbox_norm[0] + self.bbox_norm[2]) / 2
        return "left" if middle < _THIRD else "right" if middle > 1 - _THIRD else "middle"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One row: ``image`` are the bytes of the corpus, ``reference`` is None where there is none."""

    key: str
    image: bytes
    things: Sequence[Thing]
    floor: str
    wall: str
    reference: str | None
    questions: Sequence[Question]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that a build knows, sorted; ``answers`` are those to the kinds of questions that
    are answered by choice.
    """

    shapes: Sequence[str]
    colors: Sequence[str]
    sizes: Sequence[str]
    materials: Sequence[str]
    floors: Sequence[str]
    walls: Sequence[str]
    answers: Mapping[str, Sequence[str]]


def manifest_of(build: Path) -> Manifest:
    """The manifest of a build that can be evaluated on.

    Raises:
        BuildError: it is none, of another data set, or without the config `test`.
    """
    manifest = read_manifest(build)
    if manifest.data_set != _DATA_SET:
        raise BuildError(f"{build}: is a build of {manifest.data_set}, not of {_DATA_SET}")
    if CONFIG not in manifest.configs:
        known = ", ".join(manifest.configs)
        raise BuildError(f"{build}: has no config '{CONFIG}'; its configs: {known}")
    return manifest


def read_vocabulary(build: Path) -> Vocabulary:
    """The words of all configs of a build.

    Raises:
        BuildError: the build cannot be read.
    """
    configs = manifest_of(build).configs
    rows = " UNION ALL ".join(
        f"SELECT attributes, floor, wall, questions FROM {sql_name(config)}" for config in configs
    )
    things = f"SELECT unnest(attributes) AS told FROM ({rows})"
    asked = f"FROM (SELECT unnest(questions) AS told FROM ({rows}))"
    with connect(build) as connection, readable(build):

        def distinct(what: str, table: str) -> list[str]:
            found = connection.execute(f"SELECT DISTINCT {what} FROM ({table})").fetchall()
            return sorted(word for (word,) in found if word)

        return Vocabulary(
            shapes=distinct("told.shape", things),
            colors=distinct("told.color", things),
            sizes=distinct("told.size", things),
            materials=distinct("told.material", things),
            floors=distinct("floor", rows),
            walls=distinct("wall", rows),
            answers={
                kind: distinct("told.answer", f"{asked} WHERE told.kind = {sql_text(kind)}")
                for kind in CHOICE_KINDS
            },
        )


def read_scenes(
    build: Path, corpus: Path, samples: int | None = None
) -> tuple[list[Scene], dict[str, int]]:
    """The first ``samples`` rows of the config `test`, or all of them, and how many of these cannot
    be used, by reason.

    Reasons: ``image_missing`` (the corpus has none with that key and hash), one of
    ``vila2data.corpus.images`` (it cannot be decoded), ``row_unusable`` (objects, attributes or
    questions are missing or broken).

    Raises:
        BuildError: the build cannot be read.
        CorpusError: the corpus holds no image of the build.
        BadInput: fewer than two scenes are left: a model that does not look needs another image.
    """
    index = CorpusIndex(corpus)
    scenes: list[Scene] = []
    rejected: dict[str, int] = {}
    for row in _rows(build, samples):
        found = _scene(row, index)
        if isinstance(found, Scene):
            scenes.append(found)
        else:
            rejected[found] = rejected.get(found, 0) + 1
    if not scenes and set(rejected) == {"image_missing"}:
        raise CorpusError(f"{corpus}: holds no image of {build}: is it the corpus of this build?")
    if len(scenes) < 2:
        told = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "none"
        raise BadInput(
            f"{build}: {len(scenes)} of its rows can be used (rejected: {told}); "
            "at least 2 are needed"
        )
    return scenes, rejected


def _rows(build: Path, samples: int | None) -> list[dict[str, Any]]:
    manifest = manifest_of(build)
    limit = "" if samples is None else f" LIMIT {int(samples)}"
    with connect(build, manifest) as connection, readable(build):
        found = connection.sql(f"SELECT {', '.join(_COLUMNS)} FROM {sql_name(CONFIG)}{limit}")
        rows: list[dict[str, Any]] = found.to_arrow_table().to_pylist()
    return rows


def _scene(row: Mapping[str, Any], index: CorpusIndex) -> Scene | str:
    try:
        things = [
            _thing(place, told)
            for place, told in zip(row["objects"], row["attributes"], strict=True)
        ]
        questions = [Question(**asked) for asked in row["questions"] or ()]
        if not things or not (row["floor"] and row["wall"]):
            return "row_unusable"
        if not all(q.question and q.answer and q.kind for q in questions):
            return "row_unusable"
    except (TypeError, ValueError):
        return "row_unusable"
    images = index.images(row["key"] or "")
    image = next((i for i in images if sha256(i).hexdigest() == row["image_sha256"]), None)
    if image is None:
        return "image_missing"
    try:
        decode(image, ImageLimits())
    except ImageRefused as refused:
        return refused.problem.reason
    return Scene(row["key"], image, things, row["floor"], row["wall"], row["reference"], questions)


def _thing(place: Mapping[str, Any], told: Mapping[str, Any]) -> Thing:
    """One object of a row.

    Raises:
        TypeError: something is null.
        ValueError: a word is missing, a number is not finite, or it does not lie before the camera.
    """
    words = {name: told[name] for name in ("shape", "color", "size", "material")}
    bbox = tuple(float(number) for number in place["bbox"])
    center = tuple(float(number) for number in place["center"])
    if not all(words.values()) or not all(map(isfinite, (*bbox, *center))) or center[2] <= 0:
        raise ValueError("an object is broken")
    return Thing(**words, bbox_norm=bbox, center=center)

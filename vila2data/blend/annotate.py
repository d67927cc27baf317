"""The first task that runs in parallel: records of a part of a source become annotations."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from vila2data.build.work import note_counts, shard_writer, write_shard
from vila2data.corpus.images import Problem
from vila2data.corpus.names import printable
from vila2data.counts import Counts, tally
from vila2data.files import appearing
from vila2data.keyed import keyed_hash
from vila2data.schema import INSTRUCT_REJECT

from .annotation import Annotation
from .files import Part, layout_of
from .layouts import Record
from .source import Source

_ROWS_PER_TABLE = 5_000

RECORDS = "records"
QUESTIONS = "questions"
CLEANED = "cleaned "
"""Before the name of a rule."""

IMAGE = pa.struct(
    {"name": pa.string(), "offset": pa.int64(), "size": pa.int64(), "sha256": pa.string()}
)
"""``name`` below the source's folder of images; or null, and the bytes are in the shard's file."""

ANNOTATIONS = pa.schema(
    {
        "id": pa.string(),
        "group": pa.string(),
        "group_hash": pa.uint64(),
        "record": pa.int64(),
        "images": pa.list_(IMAGE),
        "exchanges": pa.list_(
            pa.struct(
                {
                    "question": pa.string(),
                    "answer": pa.string(),
                    "choices": pa.list_(pa.string()),
                    "box": pa.list_(pa.float64()),
                }
            )
        ),
        "origin": pa.string(),
    }
)


@dataclass(frozen=True)
class AnnotateTask:
    """A part of a source, and the files that it becomes.

    Attributes:
        groups: file of the groups to take; None takes all.
        rejects_per_reason: rejected records and questions that are written down.
        out: appears last.
        blobs: for images that come as bytes.
    """

    name: str
    source: Source
    part: Part
    groups: Path | None
    rejects_per_reason: int
    out: Path
    blobs: Path
    rejects: Path


def annotate(task: AnnotateTask) -> int:
    """Writes the annotations of a part; returns how many records were read."""
    shard = _Shard(task)
    with (
        appearing(task.out) as temporary,  # last of all, since it is what says that all is there
        shard_writer(temporary, ANNOTATIONS) as writer,
        appearing(task.blobs) as blobs,
        blobs.open("wb") as blob_file,
    ):
        images = _Blobs(blob_file)
        rows: list[dict[str, Any]] = []
        for record in task.part.records(task.source):
            rows += (_row(a, shard, images) for a in shard.annotations(record))
            if len(rows) >= _ROWS_PER_TABLE:
                writer.write_table(pa.Table.from_pylist(rows, ANNOTATIONS))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, ANNOTATIONS))
        write_shard(pa.Table.from_pylist(shard.rejects, INSTRUCT_REJECT.arrow_schema), task.rejects)
        note_counts(writer, shard.steps())
    return shard.read


class _Shard:
    """What became of the records of a part so far."""

    def __init__(self, task: AnnotateTask) -> None:
        self._task = task
        self._layout = layout_of(task.source)
        self._groups = (
            None if task.groups is None else frozenset(task.groups.read_text("utf-8").splitlines())
        )
        self.file = Path(task.part.file.name)
        self.merges = task.source.rules.merge
        self.number = task.part.first_record - 1
        self.read = 0
        self.rejects: list[dict[str, str]] = []
        self._lost: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._cleaned: Counter[str] = Counter()
        self._used = 0

    def annotations(self, record: Record | None) -> Iterator[Annotation]:
        """What can be used of a record; the rest is counted."""
        self.number += 1
        self.read += 1
        problems: list[Problem] = []
        used = False
        for found in self._of(record):
            if isinstance(found, Problem):
                problems.append(found)
                self._refuse(found)
            else:
                used = True
                self._used += len(found.exchanges)
                self._cleaned.update(e.cleaned for e in found.exchanges if e.cleaned)
                yield found
        if not used:
            self._lost[problems[0].reason if problems else "nothing_found"] += 1

    def _of(self, record: Record | None) -> Iterator[Annotation | Problem]:
        if record is None:
            yield Problem("record_unreadable", "is no object")
            return
        for found in self._layout.read(record):
            yield found if isinstance(found, Problem) else self._fault(found) or found

    def _fault(self, found: Annotation) -> Problem | None:
        if self._groups is not None and group_of(found) not in self._groups:
            return Problem("not_listed", group_of(found))
        return None if _storable(found) else Problem("not_unicode")

    def _refuse(self, problem: Problem) -> None:
        self._refused[problem.reason] += 1
        if self._refused[problem.reason] <= self._task.rejects_per_reason:
            place = f"{self._task.name}/{self.file.name}:{self.number}"
            self.rejects.append(
                {
                    "id": printable(place),
                    "source": self._task.name,
                    "reject_reason": problem.reason,
                    "detail": problem.detail,
                }
            )

    def steps(self) -> dict[str, Counts]:
        """Of records, of questions, and how often each rule cleaned a label."""
        lost, refused = tally(self._lost), tally(self._refused)
        asked = self._used + sum(refused.values())
        cleaned = tally(self._cleaned)
        return {
            RECORDS: Counts(self.read, self.read - sum(lost.values()), lost),
            QUESTIONS: Counts(asked, self._used, refused),
            **{CLEANED + rule: Counts(n, n) for rule, n in cleaned.items()},
        }


class _Blobs:
    """Images that came as bytes, one after the other in a file, each once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._known: dict[str, int] = {}

    def add(self, content: bytes) -> dict[str, Any]:
        digest = sha256(content).hexdigest()
        if digest not in self._known:
            self._file.write(content)
            self._known[digest] = self._at
            self._at += len(content)
        offset = self._known[digest]
        return {"name": None, "offset": offset, "size": len(content), "sha256": digest}


def _row(found: Annotation, shard: _Shard, blobs: _Blobs) -> dict[str, Any]:
    name = found.id or f"{shard.file.stem}-{shard.number}"
    images = [
        {"name": image, "offset": None, "size": None, "sha256": None}
        if isinstance(image, str)
        else blobs.add(image)
        for image in found.images
    ]
    group = group_of(found) or " ".join(i["sha256"] for i in images if i["sha256"]) or name
    return {
        "id": name,
        "group": group,
        "group_hash": keyed_hash(group) if shard.merges else 0,
        "record": shard.number,
        "images": images,
        "exchanges": [
            {"question": e.question, "answer": e.answer, "choices": e.choices, "box": e.box}
            for e in found.exchanges
        ],
        "origin": _as_json(found.origin) if found.origin else None,
    }


def group_of(found: Annotation) -> str:
    """Its group, or the names of its images; empty where these are not named."""
    return found.group or " ".join(image for image in found.images if isinstance(image, str))


def _storable(found: Annotation) -> bool:
    """Whether all its texts are Unicode; strings of JSON need not be."""
    texts = [found.id, found.group]
    texts += [image for image in found.images if isinstance(image, str)]
    texts += [t for e in found.exchanges for t in (e.question, e.answer, *e.choices)]
    if found.origin:
        texts.append(_as_json(found.origin))
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_json(origin: Mapping[str, Any]) -> str:
    return json.dumps(dict(origin), ensure_ascii=False)

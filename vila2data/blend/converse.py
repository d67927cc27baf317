"""The second task that runs in parallel: annotations of a source become conversations."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from vila2data.build.tables import streamed, work_connection
from vila2data.build.views import sql_list
from vila2data.build.work import note_counts, shard_writer, write_shard
from vila2data.conversation import neutralise
from vila2data.corpus.images import ImageRefused, Problem
from vila2data.corpus.names import printable
from vila2data.counts import Counts, tally
from vila2data.files import appearing
from vila2data.keyed import keyed_hash, keyed_uniform
from vila2data.optional import require
from vila2data.schema import INSTRUCT, INSTRUCT_REJECT

from .annotate import IMAGE
from .annotation import Exchange
from .images import ImageStore, Looked, look
from .signing import Signer, Signing
from .source import Rules
from .wording import MAX_CHOICES, Asked, CountTokens, Size, Worded, Wording, estimated_tokens

ANNOTATIONS = "annotations"
CONVERSATIONS = "conversations"
MISNAMED = "misnamed"
MERGED = "merged"

_ROWS_PER_BATCH = 2_000
_ROWS_PER_TABLE = 2_000

PLACED = pa.struct([*IMAGE, pa.field("shard", pa.int32())])

ROWS = pa.schema(
    {
        "conversation": pa.int64(),
        "name": pa.string(),
        "suffix": pa.string(),
        "images": pa.list_(PLACED),
        "messages": INSTRUCT.arrow_schema.field("messages").type,
        "origin": pa.string(),
        "tokens": pa.int32(),
        "cap_draw": pa.uint64(),
        "weight_draw": pa.float64(),
    }
)
"""``conversation`` is its number in the shard; the rows of one stand together."""


@dataclass(frozen=True)
class ConverseTask:
    """Annotations of a source, and the files that they become.

    Attributes:
        shards: all of the source's annotations, with their images that came as bytes.
        only: the shard whose annotations these are, where each stands for itself.
        bucket, buckets: of the hashes of groups, where annotations are merged.
        images: folder that names of images are below.
        seed: of the data set.
        is_drawn_from: only some rows are taken, or some are repeated.
        tokenizer: folder of the one that counts.
        number: of the shard of rows, among all sources'.
        signing: how rows are compared; None where they are not.
    """

    name: str
    rules: Rules
    is_worded: bool
    shards: Sequence[Path]
    blobs: Sequence[Path]
    only: int
    bucket: int
    buckets: int
    images: Path | None
    seed: int
    is_drawn_from: bool
    tokenizer: Path | None
    rejects_per_reason: int
    number: int
    signing: Signing | None
    work: Path
    out: Path
    rejects: Path
    signatures: Path


@dataclass(frozen=True, slots=True)
class _Conversation:
    """Annotations that belong together."""

    name: str
    images: list[dict[str, Any]]
    exchanges: list[Exchange]
    origin: str | None


def converse(task: ConverseTask) -> int:
    """Writes the rows of a source's conversations; returns how many there are."""
    shard = _Shard(task)
    with appearing(task.out) as temporary, shard_writer(temporary, ROWS) as writer:
        rows = shard.rows()
        while some := list(islice(rows, _ROWS_PER_TABLE)):
            writer.write_table(pa.Table.from_pylist(some, ROWS))
        write_shard(pa.Table.from_pylist(shard.rejects, INSTRUCT_REJECT.arrow_schema), task.rejects)
        if shard.signer is not None:
            write_shard(shard.signer.table(), task.signatures)
        note_counts(writer, shard.steps())
    return shard.written


class _Shard:
    """What became of the annotations so far."""

    def __init__(self, task: ConverseTask) -> None:
        self._task = task
        self._draw = (task.seed, task.name)
        self._wording = Wording(
            task.rules, task.is_worded, self._draw, token_counter(task.tokenizer)
        )
        self._store = ImageStore(task.images, task.blobs)
        self._looked: dict[str, Looked | Problem] = {}
        self._annotations = 0
        self._conversations = 0
        self._refused: Counter[str] = Counter()
        self._misnamed = 0
        self.rejects: list[dict[str, str]] = []
        self.written = 0
        self.signer = (
            Signer(task.signing, task.number, task.name) if task.signing is not None else None
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, in order of record, or of group where annotations are merged."""
        for number, conversation in enumerate(self._read()):
            self._conversations += 1
            found = self._rows_of(conversation)
            if isinstance(found, Problem):
                self._refuse(conversation.name, found)
                continue
            draws = {
                "conversation": number,
                "name": conversation.name,
                **self._draws(conversation.name),
                "images": conversation.images,
            }
            self.written += len(found)
            if self.signer is not None:
                keys = [image_key(image) for image in conversation.images]
                self.signer.add(number, keys, [row["messages"] for row in found])
            for row in found:
                yield draws | row

    def _draws(self, name: str) -> dict[str, float]:
        if not self._task.is_drawn_from:
            return {"cap_draw": 0, "weight_draw": 0.0}
        return {
            "cap_draw": keyed_hash(*self._draw, name, "cap"),
            "weight_draw": keyed_uniform(*self._draw, name, "weight"),
        }

    def steps(self) -> dict[str, Counts]:
        """Of annotations, of conversations, and how many images are named otherwise."""
        refused = tally(self._refused)
        merged = self._annotations - self._conversations
        kept = self._conversations - sum(refused.values())
        return {
            ANNOTATIONS: Counts(
                self._annotations, self._conversations, {MERGED: merged} if merged else {}
            ),
            CONVERSATIONS: Counts(self._conversations, kept, refused),
            MISNAMED: Counts(self._misnamed, self._misnamed),
        }

    def _read(self) -> Iterator[_Conversation]:
        task = self._task
        batches: Iterable[pa.RecordBatch]
        with work_connection(str(task.work)) as connection:
            columns = "id, images, exchanges, origin, record, " + _shard_number(task.shards)
            if task.rules.merge:
                where = f"group_hash % {task.buckets} = {task.bucket}"
                order = "group_name, shard, record"
                files = sql_list(path.as_posix() for path in task.shards)
            else:
                where, order = "true", "record"
                files = sql_list([task.shards[task.only].as_posix()])
            query = (
                f'SELECT {columns}, "group" AS group_name FROM read_parquet({files}, '
                f"filename = true) WHERE {where} ORDER BY {order}"
            )
            batches = streamed(connection, query, _ROWS_PER_BATCH)
            rows = (row for batch in batches for row in batch.to_pylist())
            if not task.rules.merge:
                for row in rows:
                    self._annotations += 1
                    yield self._conversation(row["id"], [row])
                return
            for name, members in groupby(rows, key=itemgetter("group_name")):
                found = list(members)
                self._annotations += len(found)
                yield self._conversation(name, found)

    def _conversation(self, name: str, rows: Sequence[Mapping[str, Any]]) -> _Conversation:
        """Annotations with one group, or one alone."""
        exchanges = [_exchange(each) for row in rows for each in row["exchanges"]]
        first, merge = rows[0], self._task.rules.merge
        images = [each for image in first["images"] for each in self._store.pictures(image)]
        return _Conversation(
            name=name,
            images=[{**image, "shard": first["shard"]} for image in images],
            exchanges=_once(exchanges) if merge else exchanges,
            origin=None if merge else first["origin"],
        )

    def _rows_of(self, conversation: _Conversation) -> list[dict[str, Any]] | Problem:
        rules, name = self._task.rules, conversation.name
        sizes_px: list[Size] = []
        for image in conversation.images:
            looked = self._look(image)
            if isinstance(looked, Problem):
                return looked
            sizes_px.append((looked.width_px, looked.height_px))
        asked = self._drawn(name, conversation.exchanges)
        choices = max((len(one.exchange.choices) for one in asked), default=0)
        if choices > MAX_CHOICES:
            return Problem("too_many_choices", f"{choices}, at most {MAX_CHOICES}")
        permuted = rules.permute_choices and choices > 0
        found = []
        for part, segment in _segments(asked, rules.segment):
            for rotation in range(choices if permuted else 1):
                worded = self._wording.row(name, segment, sizes_px, rotation)
                if not worded.turns:
                    return Problem("too_long", "its first question and answer")
                found.append(
                    {
                        "suffix": part + (f"/r{rotation}" if permuted else ""),
                        "messages": _messages(worded.turns),
                        "origin": _origin(conversation.origin, worded),
                        "tokens": worded.tokens,
                    }
                )
        return found

    def _drawn(self, name: str, exchanges: Sequence[Exchange]) -> list[Asked]:
        """At most so many exchanges as the rules allow, in their order."""
        asked = [Asked(number, exchange) for number, exchange in enumerate(exchanges)]
        most = self._task.rules.max_exchanges
        if most is None or len(asked) <= most:
            return asked
        drawn = sorted(asked, key=lambda a: keyed_hash(*self._draw, name, "exchange", a.number))
        return sorted(drawn[:most], key=lambda a: a.number)

    def _look(self, image: Mapping[str, Any]) -> Looked | Problem:
        key = image_key(image)
        if key not in self._looked:
            try:
                content = self._store.content(image, image["shard"])
                looked = look(content, image["name"])
                if self.signer is not None:
                    self.signer.add_image(key, content)
                self._looked[key] = looked
                self._misnamed += looked.misnamed
            except ImageRefused as refused:
                self._looked[key] = refused.problem
        return self._looked[key]

    def _refuse(self, name: str, problem: Problem) -> None:
        self._refused[problem.reason] += 1
        if self._refused[problem.reason] <= self._task.rejects_per_reason:
            self.rejects.append(
                {
                    "id": printable(f"{self._task.name}/{name}"),
                    "source": self._task.name,
                    "reject_reason": problem.reason,
                    "detail": problem.detail,
                }
            )


def image_key(image: Mapping[str, Any]) -> str:
    """What tells an image of a source apart."""
    return str(image["name"] or image["sha256"])


def _segments(asked: Sequence[Asked], most: int | None) -> Iterator[tuple[str, Sequence[Asked]]]:
    """Parts of a conversation, with the suffix of their names."""
    step = most or len(asked)
    for place, at in enumerate(range(0, len(asked), step)):
        yield f"/s{place}" if len(asked) > step else "", asked[at : at + step]


def _shard_number(shards: Sequence[Path]) -> str:
    files = sql_list(path.as_posix() for path in shards)
    return f"(list_position({files}, filename) - 1)::INTEGER AS shard"


def _exchange(told: Mapping[str, Any]) -> Exchange:
    box = told["box"]
    return Exchange(
        told["question"],
        told["answer"],
        tuple(told["choices"] or ()),
        None if box is None else tuple(box),
    )


def _once(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The first of those that are the same when they are written."""
    found: dict[tuple[object, ...], Exchange] = {}
    for e in exchanges:
        choices = tuple(map(neutralise, e.choices))
        found.setdefault((neutralise(e.question), neutralise(e.answer), choices, e.box), e)
    return list(found.values())


def _messages(turns: Sequence[str]) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(turns)
    ]


def _origin(origin: str | None, worded: Worded) -> str | None:
    if not worded.changed:
        return origin
    told = json.loads(origin) if origin else {}
    return json.dumps(told | {"texts": worded.changed}, ensure_ascii=False)


@cache
def token_counter(tokenizer: Path | None) -> CountTokens:
    """What counts the tokens of a text.

    Raises:
        MissingExtra: transformers is not installed.
    """
    if tokenizer is None:
        return estimated_tokens
    transformers: Any = require("transformers", extra="vlm")
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])

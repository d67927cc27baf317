"""The rows of each source, with the places of their images."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256 as digest
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from vila2data.build.manifest import MANIFEST_FILE, Manifest, read_manifest
from vila2data.corpus.identity import corpus_source
from vila2data.corpus.index import CorpusIndex, Location
from vila2data.corpus.names import key_of
from vila2data.errors import BadInput
from vila2data.files import file_sha256

from .images import ROW_IMAGES, Place
from .spec import SourceSpec
from .texts import TEXT_NULL, text_column

_ROWS_PER_BATCH = 1024
_NO_IMAGE = "missing"  # image_status of a row whose key may be another image's


@dataclass(frozen=True, slots=True)
class Passage:
    """Text of an interleaved document after the images that belong before it."""

    images: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source.

    Attributes:
        key: unique in its source.
        images: where each image lies, in the order of the markers; None for one that is missing.
        messages: turns with ``<image>`` markers; empty for a document.
        passages: of a document; empty for a conversation.
        problem: reason why the row cannot be used, None where it can.
    """

    key: str
    images: Sequence[Place | None] = ()
    messages: Sequence[Mapping[str, str]] = ()
    passages: Sequence[Passage] = ()
    problem: str | None = None


class Rows(Protocol):
    """A source that can be read more than once."""

    identity: str
    """What its draws are keyed by: the same wherever its folder lies."""

    location: Path
    """Folder in which the images lie: the corpus, or the build."""

    @property
    def parts(self) -> int:
        """Files, each of which can be read by itself."""

    def row_keys(self, part: int) -> Iterator[str]:
        """Keys of a part's rows that have a text, in the order of ``rows``."""

    def rows(self, part: int) -> Iterator[Row]:
        """A part's rows, in the same order at each call."""

    def told(self) -> dict[str, Any]:
        """What the manifest of a checkpoint says of the source."""


def open_rows(spec: SourceSpec) -> Rows:
    """The rows of a source.

    Raises:
        BadInput: the build has no such config, or needs a corpus.
        CorpusError: the corpus is none.
    """
    return _Documents(spec) if spec.documents is not None else _Build(spec)


class _Build:
    """A config of a build: conversations, captions or questions of one column; images from a
    corpus, or in the rows.
    """

    def __init__(self, spec: SourceSpec) -> None:
        import pyarrow.parquet as pq

        assert spec.build is not None
        self.build, self.split = spec.build, spec.split
        self.manifest = read_manifest(spec.build)
        self.config = spec.config or self.manifest.default_config
        self._files = _files_of(spec.build, self.manifest, self.config, spec.split)
        column = [spec.column] if spec.column else []
        self.identity = "/".join([self.manifest.data_set, self.config, *column])
        self._told = {"column": spec.column} if spec.column else {}
        schema = pq.read_schema(self._files[0])
        self._columns = set(schema.names)
        self._text = text_column(schema, spec.column, where=self._where)
        self._key = "key" if "key" in self._columns else "id"
        self._embedded = next((c for c in ("images", "image") if c in self._columns), None)
        self._corpus = self._open_corpus(spec.corpus)
        self.location = spec.corpus if self._corpus and spec.corpus else spec.build

    @property
    def _where(self) -> str:
        return f"{self.build}, config '{self.config}'"

    def _open_corpus(self, corpus: Path | None) -> CorpusIndex | None:
        named = next((c for c in ("image_path", "image_paths") if c in self._columns), None)
        if named is not None:
            raise BadInput(
                f"{self._where}: names its images by file ('{named}'); train on the form of the "
                "build with embedded images"
            )
        if self._embedded is not None:
            return None
        if corpus is None:
            raise BadInput(
                f"{self._where}: holds no images: give the corpus that it was made from as corpus:"
            )
        return CorpusIndex(corpus)

    @property
    def parts(self) -> int:
        """Parquet files."""
        return len(self._files)

    def row_keys(self, part: int) -> Iterator[str]:
        """Keys of a file's rows that have a text."""
        if not self._has_nulls(part):
            for batch in self._batches(part, [self._key]):
                yield from map(str, batch[self._key])
            return
        for batch in self._batches(part, [self._key, self._text.name]):
            pairs = zip(batch[self._key], batch[self._text.name], strict=True)
            yield from (str(key) for key, text in pairs if self._text.messages(text) is not None)

    def _has_nulls(self, part: int) -> bool:
        """Whether a text of a file may be null: where the statistics rule it out, no text is read
        to find out.
        """
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(self._files[part])
        groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
        columns = (group.column(n) for group in groups for n in range(group.num_columns))
        found = [c for c in columns if c.path_in_schema.partition(".")[0] == self._text.name]
        return any(c.statistics is None or c.statistics.null_count != 0 for c in found)

    def rows(self, part: int) -> Iterator[Row]:
        """A file's rows; those with images in the corpus are looked up in batches."""
        import pyarrow.parquet as pq

        wanted = ["image_sha256", "image_status", "width", "height"]
        columns = [self._key, self._text.name, *(c for c in wanted if c in self._columns)]
        number = sum(pq.read_metadata(file).num_rows for file in self._files[:part])
        columns += [self._embedded] if self._embedded else []
        for batch in self._batches(part, columns):
            values = zip(*batch.values(), strict=True)
            records = [dict(zip(batch, record, strict=True)) for record in values]
            found = self._corpus.locate(r[self._key] for r in records) if self._corpus else {}
            for record in records:
                yield self._row(record, number, found)
                number += 1

    def _row(self, record: dict[str, Any], number: int, found: Mapping[str, list[Location]]) -> Row:
        key = str(record[self._key])
        messages = self._text.messages(record[self._text.name])
        if messages is None:
            return Row(key, problem=TEXT_NULL)
        if self._embedded is not None:
            return Row(key, self._embedded_places(record, number), messages)
        sha256 = record.get("image_sha256")
        places = [] if record.get("image_status") == _NO_IMAGE else found.get(key, [])
        if len(places) > 1 and self._corpus and sha256:  # a key that stands twice: by its bytes
            places = [p for p in places if digest(self._corpus.read(p)).hexdigest() == sha256]
        place = (
            Place(*places[0], sha256, record.get("width"), record.get("height")) if places else None
        )
        return Row(key, [place], messages)

    def _embedded_places(self, record: dict[str, Any], number: int) -> list[Place | None]:
        held = record[str(self._embedded)]
        images = (held or []) if self._embedded == "images" else [held]
        sides = (record.get("width"), record.get("height"))
        return [
            None if image is None else Place(ROW_IMAGES, number, position, None, *sides)
            for position, image in enumerate(images)
        ]

    def _batches(self, part: int, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
        import pyarrow.parquet as pq

        # Of embedded images only the number counts here; their bytes stay unread.
        read = [f"{c}.list.element.path" if c == "images" else c for c in columns]
        read = [f"{c}.path" if c == "image" else c for c in read]
        with pq.ParquetFile(self._files[part]) as opened:
            for batch in opened.iter_batches(_ROWS_PER_BATCH, columns=_nested(opened, read)):
                yield batch.to_pydict()

    def told(self) -> dict[str, Any]:
        """Which version of which data set, by the hash of its manifest."""
        told = {
            "data_set": self.manifest.data_set,
            "version": self.manifest.version,
            "config": self.config,
            "split": self.split,
            **self._told,
            "manifest_sha256": file_sha256(self.build / MANIFEST_FILE),
        }
        return told | (corpus_source(self.location) if self._corpus else {})


def _nested(file: Any, columns: list[str]) -> list[str]:
    """The columns as parquet spells them: lists of messages by their leaves."""
    wanted = tuple(columns)
    leaves = [file.schema.column(n).path for n in range(len(file.schema))]
    return [
        leaf
        for leaf in leaves
        if leaf in wanted
        or (leaf.partition(".")[0] in wanted)  # a nested column that is wanted whole
    ]


def _files_of(build: Path, manifest: Manifest, config: str, split: str) -> list[Path]:
    if config not in manifest.configs:
        known = ", ".join(manifest.configs)
        raise BadInput(f"{build}: has no config '{config}'; it has {known}")
    files = [build / f.path for f in manifest.files_of(config) if f.split == split]
    if not files:
        splits = ", ".join(sorted({f.split for f in manifest.files_of(config)}))
        raise BadInput(f"{build}: config '{config}' has no split '{split}'; it has {splits}")
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise BadInput(f"{missing}: is missing; `vila2data verify {build}` says what else is wrong")
    return files


class _Documents:
    """Interleaved documents in MMC4's layout; the key of an image in the corpus is made of its
    ``image_name``, as ``vila2data corpus pack`` makes it.
    """

    def __init__(self, spec: SourceSpec) -> None:
        assert spec.documents is not None and spec.corpus is not None  # noqa: PT018
        self._files = _jsonl_files(spec.documents)
        self._spec = spec
        self._index = CorpusIndex(spec.corpus)
        self.location = spec.corpus
        self.identity = f"documents/{spec.documents.name}"

    @property
    def parts(self) -> int:
        """Files."""
        return len(self._files)

    def row_keys(self, part: int) -> Iterator[str]:
        """File and line of each document."""
        file = self._files[part]
        with file.open("rb") as lines:
            yield from (_document_key(file, n) for n, _ in enumerate(lines, start=1))

    def rows(self, part: int) -> Iterator[Row]:
        """A file's documents."""
        file = self._files[part]
        with file.open("rb") as lines:
            numbered = enumerate(lines, start=1)
            while chunk := list(islice(numbered, _ROWS_PER_BATCH)):
                parsed = [(_document_key(file, n), self._parse(line)) for n, line in chunk]
                names = {name for _, d in parsed if d for _, name in d.images}
                found = self._index.locate(names)
                yield from (self._row(key, document, found) for key, document in parsed)

    def _row(
        self, key: str, document: "_Document | None", found: Mapping[str, list[Location]]
    ) -> Row:
        if document is None:
            return Row(key, problem="document_unreadable")
        counts = Counter(sentence for sentence, _ in document.images)
        passages = [Passage(counts[n], text) for n, text in enumerate(document.texts)]
        places = [_first_place(found.get(name)) for _, name in document.images]
        return Row(key, places, passages=passages)

    def _parse(self, line: bytes) -> "_Document | None":
        """The document, its images in the order of the sentences that they stand before."""
        try:
            content = json.loads(line)
            texts = list(content["text_list"])
            images = [
                (int(image["matched_text_index"]), key_of(str(image["image_name"])))
                for image in content["image_info"]
                if float(image.get("matched_sim", 1.0)) >= self._spec.min_similarity
            ]
            "".join([*texts, *(name for _, name in images)]).encode()  # no lone surrogates
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
            return None
        if any(not 0 <= sentence < len(texts) for sentence, _ in images):
            return None
        ordered = sorted(images, key=lambda image: image[0])
        return _Document(texts, list(islice(ordered, self._spec.max_images)))

    def told(self) -> dict[str, Any]:
        """The files by their hashes."""
        return {
            "documents": {file.name: file_sha256(file) for file in self._files},
            **corpus_source(self.location),
        }


@dataclass(frozen=True, slots=True)
class _Document:
    texts: list[str]
    images: list[tuple[int, str]]  # (index of the sentence, key in the corpus)


def _first_place(places: Sequence[Location] | None) -> Place | None:
    return Place(*places[0]) if places else None


def _document_key(file: Path, line: int) -> str:
    return f"{file.name}:{line}"


def _jsonl_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"documents: {path} holds no .jsonl files")
    return files

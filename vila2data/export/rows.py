"""The conversations of a build, row by row."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2data.build.manifest import Manifest, read_manifest
from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.corpus.images import Problem
from vila2data.errors import BadInput, BuildError
from vila2data.files import existing_folder

from .pictures import Embedded, Finder, InCorpus, Named, turned_all
from .row import Picture, Row, fault_of

SPLIT = "train"

_EMBEDDED = ("images", "image")
_NAMED = ("image_paths", "image_path")
_ABOUT = ("source", "task", "license")
_ROWS_PER_BATCH = 256
_ROWS_WITH_IMAGES_PER_BATCH = 16


@dataclass(frozen=True, slots=True)
class Conversations:
    """A config of a build, whose rows are conversations or captions.

    Attributes:
        build: folder.
        manifest: of the build.
        config: its name.
        files: parquet files in order.
        columns: that they have.
        finder: of the images.
        names_alone: whether only the names of images are known.
    """

    build: Path
    manifest: Manifest
    config: str
    files: tuple[Path, ...]
    columns: frozenset[str]
    finder: Finder
    names_alone: bool

    def __len__(self) -> int:
        """Rows by the manifest."""
        files = self.manifest.files_of(self.config)
        return sum(file.rows for file in files if file.split == SPLIT)

    def rows(self, *, upright: bool = False) -> Iterator[tuple[str, Row | Problem]]:
        """Id and row, or why there is none, in the build's order.

        Args:
            upright: turn the pixels of images that are stored lying.

        Raises:
            BuildError: a file of the build is missing or damaged.
        """
        for file in self.files:
            for records in self._batches(file):
                for record, found in zip(records, self.finder.find(records), strict=True):
                    name = str(record.get("key") or record.get("id") or "")
                    found = turned_all(found) if upright else found
                    yield name, found if isinstance(found, Problem) else _row(name, record, found)

    def _batches(self, file: Path) -> Iterator[list[dict[str, Any]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = ["key", "id", "messages", "caption", "origin", *_ABOUT, *self.finder.columns()]
        columns = [column for column in dict.fromkeys(wanted) if column in self.columns]
        holds_images = isinstance(self.finder, Embedded)
        size = _ROWS_WITH_IMAGES_PER_BATCH if holds_images else _ROWS_PER_BATCH
        try:
            with pq.ParquetFile(file) as opened:
                # Group by group: over all at once Arrow holds what it has read until the end.
                for group in range(opened.num_row_groups):
                    for batch in opened.iter_batches(size, row_groups=[group], columns=columns):
                        yield batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise BuildError(
                f"{file}: cannot be read ({str(error).partition(chr(10))[0]}); "
                f"`vila2data verify {self.build}` says what is wrong"
            ) from error


def _row(name: str, record: Mapping[str, Any], pictures: list[Picture]) -> Row | Problem:
    messages = (record["messages"] or []) if "messages" in record else _caption(record)
    problem = fault_of(messages, len(pictures))
    if problem is not None:
        return problem
    origin = _origin(record.get("origin"))
    pictures = _with_names(pictures, origin.get("image"))
    about = {column: record[column] for column in _ABOUT if record.get(column) is not None}
    return Row(name, messages, pictures, origin, about)


def _with_names(pictures: list[Picture], told: object) -> list[Picture]:
    """The pictures under the names that the source's record has, where it has one for each."""
    names = told if isinstance(told, list) else [told]
    if len(names) != len(pictures) or not all(isinstance(name, str) for name in names):
        return pictures
    if any(picture.content is None for picture in pictures):
        return pictures  # already named, and the names checked
    return [replace(p, name=name) for p, name in zip(pictures, names, strict=True)]


def _caption(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": IMAGE_MARKER},
        {"role": "assistant", "content": record.get("caption")},
    ]


def _origin(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def open_conversations(
    build: Path, *, config: str | None, images: Path | None, corpus: Path | None
) -> Conversations:
    """A config of a build with the way to its images.

    Args:
        build: folder.
        config: the build's default one where None.
        images: folder below which the images are that rows name.
        corpus: that holds the images of rows that have neither images nor names.

    Raises:
        BuildError: the folder is no build.
        BadInput: the config is unknown, holds no conversations, or its images cannot be had with
            what is given.
        CorpusError: ``corpus`` is none.
    """
    import pyarrow.parquet as pq

    manifest = read_manifest(build)
    config = config or manifest.default_config
    where = f"{build}, config '{config}'"
    if config not in manifest.configs:
        raise BadInput(f"{where}: is not there; the build has {', '.join(manifest.configs)}")
    files = tuple(build / f.path for f in manifest.files_of(config) if f.split == SPLIT)
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise BuildError(f"{missing}: is missing; `vila2data verify {build}` says what else is")
    columns = frozenset(pq.read_schema(files[0]).names if files else ())
    if "reject_reason" in columns or not columns & {"messages", "caption"}:
        raise BadInput(f"{where}: holds no conversations of split '{SPLIT}' to export")
    finder = _finder(where, columns, images=images, corpus=corpus)
    names_alone = isinstance(finder, Named) and images is None
    return Conversations(build, manifest, config, files, columns, finder, names_alone)


def _finder(
    where: str, columns: frozenset[str], *, images: Path | None, corpus: Path | None
) -> Finder:
    embedded = next((column for column in _EMBEDDED if column in columns), None)
    named = next((column for column in _NAMED if column in columns), None)
    if images is not None and named is None:
        raise BadInput(f"{where}: names no image by its file; leave --images out")
    if corpus is not None and (embedded or named):
        raise BadInput(f"{where}: has no image in a corpus; leave --corpus out")
    if embedded is not None:
        return Embedded(embedded)
    if named is not None:
        return Named(named, images and existing_folder(images, "--images"))
    if corpus is None:
        raise BadInput(f"{where}: holds no images; give the corpus it was made from: --corpus DIR")
    return InCorpus(corpus)

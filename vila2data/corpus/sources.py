"""What can be packed into a corpus: a folder of images with captions, or any data set with an image
column.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vila2data.errors import BadInput
from vila2data.files import inside

from .images import ImageRefused, Problem
from .read import IMAGE_SUFFIXES

IMAGE_COLUMNS = ("file_name", "image", "image_path", "filename", "path", "file", "imgname")
TEXT_COLUMNS = ("caption", "text", "captions", "alt_text", "alt", "caption_str")


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One sample to pack. ``load`` gives the image's bytes, or raises ``ImageRefused``; it is
    called at most once.
    """

    key: str
    load: Callable[[], bytes]
    text: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caption:
    """One entry of a captions file: the image it names, its text, and its other columns."""

    image: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def key_of(name: str) -> str:
    """The corpus key of an image's relative path: without suffix, folders and dots joined by
    underscores.

    Example:
        >>> key_of("train/000000000790.v2.jpg")
        'train_000000000790_v2'
    """
    stem = name.rpartition(".")[0] if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES else name
    return stem.replace("\\", "/").strip("/").replace("/", "_").replace(".", "_")


def from_folder(
    folder: Path,
    captions: Path | None = None,
    *,
    image_column: str | None = None,
    text_column: str | None = None,
) -> Iterator[SourceItem]:
    """Images of a folder in order of name, each with the first of its captions.

    Images without a caption come with no text; captions whose image is not there come last, to be
    counted as missing.

    Args:
        folder: searched with its subfolders.
        captions: JSON (a list of objects, an object of texts by file name, or COCO captions),
            JSONL, CSV or parquet;
            where None, ``NAME.txt`` beside ``NAME.jpg`` is the caption.
        image_column: of the captions; guessed from the usual names where None.
        text_column: as ``image_column``.

    Raises:
        BadInput: the folder or the captions cannot be read, or no column fits.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder of images")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES
    )
    if captions is None:
        yield from _distinct(_file_item(folder, n, _text_beside(folder / n)) for n in names)
        return
    known: dict[str, Caption] = {}
    for caption in _captions(captions, image_column, text_column):
        known.setdefault(caption.image, caption)  # the first caption of an image
    captioned_as = _match(names, known)
    pairs = [(name, known.get(captioned_as.get(name, ""))) for name in names]
    pairs += [(i, known[i]) for i in sorted(known.keys() - set(captioned_as.values()))]
    yield from _distinct(_file_item(folder, name, caption) for name, caption in pairs)


def _distinct(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """``items``, of which the second and later ones of a key are refused when loaded."""
    seen: set[str] = set()
    for item in items:
        yield replace(item, load=_duplicate(item.key)) if item.key in seen else item
        seen.add(item.key)


def _duplicate(key: str) -> Callable[[], bytes]:
    def load() -> bytes:
        raise ImageRefused(Problem("duplicate_key", key))

    return load


def _match(names: list[str], known: Mapping[str, Caption]) -> dict[str, str]:
    """Which entry of the captions speaks of which image: the same path, or else the same, unique
    base name.
    """
    images_named = Counter(PurePosixPath(name).name for name in names)
    entries_named = Counter(PurePosixPath(image).name for image in known)
    by_base = {PurePosixPath(i).name: i for i in known if entries_named[PurePosixPath(i).name] == 1}
    matched = {}
    for name in names:
        base = PurePosixPath(name).name
        if name in known:
            matched[name] = name
        elif base in by_base and images_named[base] == 1:
            matched[name] = by_base[base]
    return matched


def _text_beside(image: Path) -> Caption | None:
    text = image.with_suffix(".txt")
    if not text.is_file() or text.is_symlink():
        return None
    return Caption(image.name, text.read_bytes().decode("utf-8", "surrogateescape"))


def _file_item(folder: Path, name: str, caption: Caption | None) -> SourceItem:
    def load() -> bytes:
        path = inside(folder, name)
        if path is None:
            raise ImageRefused(Problem("path_unsafe", name))
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ImageRefused(Problem("image_missing", name)) from error

    text = caption.text if caption else ""
    return SourceItem(
        key=key_of(name),
        load=load,
        text=_bytes_of(text),
        metadata=caption.metadata if caption else {},
    )


def _bytes_of(text: str) -> bytes:
    """The bytes a text was read from; what is no text (a lone surrogate in JSON) stays visibly
    broken.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _captions(file: Path, image_column: str | None, text_column: str | None) -> Iterator[Caption]:
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".json": _json_rows,
        ".jsonl": _jsonl_rows,
        ".ndjson": _jsonl_rows,
        ".csv": _csv_rows,
        ".tsv": _csv_rows,
        ".parquet": _parquet_rows,
    }
    if file.suffix.lower() not in readers:
        raise BadInput(f"{file}: captions are read from {', '.join(readers)}")
    if not file.is_file():
        raise BadInput(f"{file}: no such captions file")
    columns: tuple[str, str] | None = None
    for row in readers[file.suffix.lower()](file):
        columns = columns or (
            _column(row, image_column, IMAGE_COLUMNS, f"{file}: image column"),
            _column(row, text_column, TEXT_COLUMNS, f"{file}: text column"),
        )
        yield _caption(row, *columns)


def _column(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...], what: str) -> str:
    for name in (asked,) if asked else usual:
        if name in row:
            return name
    wanted = f"'{asked}' is not there" if asked else f"none of {', '.join(usual)} is there"
    raise BadInput(f"{what}: {wanted}; the columns are {', '.join(map(str, row))}")


def _caption(row: Mapping[str, Any], image_column: str, text_column: str) -> Caption:
    text = row.get(text_column)
    if isinstance(text, list):
        text = text[0] if text else ""
    rest = {k: v for k, v in row.items() if k not in (image_column, text_column)}
    return Caption(str(row.get(image_column) or ""), str(text or ""), rest)


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError as error:
        raise BadInput(f"{file}: is not JSON: {error}") from error
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        yield from _coco_rows(content)
    elif isinstance(content, dict):
        yield from ({"file_name": name, "caption": text} for name, text in content.items())
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        yield from content
    else:
        raise BadInput(
            f"{file}: holds neither a list of objects, nor an object of texts by file name, "
            "nor COCO captions"
        )


def _coco_rows(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per image that has captions, in the order of the annotations; COCO's ids are not
    COYO's.
    """
    images = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        image = images.get(annotation.get("image_id"), {})
        if "file_name" in image and "caption" in annotation:
            yield {
                "file_name": image["file_name"],
                "caption": annotation["caption"],
                "coco_image_id": image["id"],
                "url": image.get("coco_url"),
            }


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{file}:{number}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BadInput(f"{file}:{number}: is not a JSON object")
            yield row


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 26)  # a long caption must not stop the file
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        for row in csv.DictReader(lines, delimiter=delimiter):
            yield {str(k): v for k, v in row.items() if k is not None}


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def from_dataset(
    rows: Iterable[Mapping[str, Any]],
    *,
    image_column: str = "image",
    text_column: str | None = None,
    key_column: str | None = None,
) -> Iterator[SourceItem]:
    """Rows of a ``datasets`` data set, map-style or streaming, whose image column was cast to
    ``decode=False``.

    Args:
        rows: each with ``{"bytes": ..., "path": ...}`` in the image column.
        image_column: the column of ``Image()``.
        text_column: the alt-text; guessed from the usual names where None.
        key_column: unique per row; the row's number with nine digits where None.

    Raises:
        BadInput: a named column is not there.
    """
    for number, row in enumerate(rows):
        image_name = _column(row, image_column, (), "image column")
        text_name = text_column or next((c for c in TEXT_COLUMNS if c in row), None)
        if text_name is not None:
            _column(row, text_name, (), "text column")
        key = (
            str(row[_column(row, key_column, (), "key column")]) if key_column else f"{number:09d}"
        )
        text = row.get(text_name) if text_name else ""
        text = text[0] if isinstance(text, list) and text else text
        rest = {k: v for k, v in row.items() if k not in (image_name, text_name, key_column)}
        yield SourceItem(
            key=key_of(key),
            load=_embedded(row[image_name]),
            text=_bytes_of(str(text or "")),
            metadata={k: v for k, v in rest.items() if isinstance(v, str | int | float | bool)},
        )


def _embedded(image: Mapping[str, Any] | None) -> Callable[[], bytes]:
    def load() -> bytes:
        if image and image.get("bytes"):
            content: bytes = image["bytes"]
            return content
        path = image.get("path") if image else None
        if not path or not Path(path).is_file():
            raise ImageRefused(Problem("image_missing", str(path or "no image in the row")))
        return Path(path).read_bytes()

    return load


def load_rows(
    source: str, *, config: str | None, split: str, image_column: str
) -> Iterable[Mapping[str, Any]]:
    """Rows of a data set as ``load_dataset`` finds it, streaming, the images not decoded.

    Raises:
        BadInput: it cannot be loaded, or has no such image column.
    """
    import datasets

    try:
        rows = datasets.load_dataset(source, config, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"{source}: cannot be loaded as a data set: {error}") from error
    features = rows.features or {}
    if not isinstance(features.get(image_column), datasets.Image):
        raise BadInput(
            f"{source}: column '{image_column}' is no Image(); "
            f"the columns are {', '.join(features)}"
        )
    undecoded: Iterable[Mapping[str, Any]] = rows.cast_column(
        image_column, datasets.Image(decode=False)
    )
    return undecoded

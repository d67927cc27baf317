"""Reads files of captions: JSON, COCO captions, JSONL, CSV, TSV and parquet.

Bytes that are no UTF-8 come out as lone surrogates, so that one bad caption does not stop the file.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila2data.errors import BadInput

IMAGE_COLUMNS = ("file_name", "image", "image_path", "filename", "path", "file", "imgname")
TEXT_COLUMNS = ("caption", "text", "captions", "alt_text", "alt", "caption_str")


@dataclass(frozen=True, slots=True)
class Caption:
    """One entry of a captions file: the image it names, its text, and its other columns."""

    image: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_captions(
    file: Path, image_column: str | None, text_column: str | None
) -> Iterator[Caption]:
    """Every caption of a file, in its order; the file's suffix tells its form.

    Raises:
        BadInput: the file cannot be read, or no column fits.
    """
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
            column_of(row, image_column, IMAGE_COLUMNS, f"{file}: image column"),
            column_of(row, text_column, TEXT_COLUMNS, f"{file}: text column"),
        )
        yield _caption(row, *columns)


def column_of(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...], what: str) -> str:
    """The column that was asked for, or the first of the usual names that is there.

    Raises:
        BadInput: it is not there.
    """
    for name in (asked,) if asked else usual:
        if name in row:
            return name
    wanted = f"'{asked}' is not there" if asked else f"none of {', '.join(usual)} is there"
    raise BadInput(f"{what}: {wanted}; the columns are {', '.join(map(str, row))}")


def _caption(row: Mapping[str, Any], image_column: str, text_column: str) -> Caption:
    rest = {k: v for k, v in row.items() if k not in (image_column, text_column)}
    return Caption(str(row.get(image_column) or ""), first_text(row.get(text_column)), rest)


def first_text(value: Any) -> str:
    """A caption, or the first of several; what is neither text nor number counts as none."""
    if isinstance(value, list):
        value = value[0] if value else None
    return str(value) if isinstance(value, str | int | float) else ""


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: is not JSON: {error}") from error
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        yield from _coco_rows(file, content)
    elif isinstance(content, dict):
        yield from ({"file_name": name, "caption": text} for name, text in content.items())
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        yield from content
    else:
        raise BadInput(
            f"{file}: holds neither a list of objects, nor an object of texts by file name, "
            "nor COCO captions"
        )


def _coco_rows(file: Path, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per caption, in the order of the annotations; COCO's ids are not COYO's."""
    found = False
    try:
        images = {image["id"]: image for image in content["images"]}
        for annotation in content["annotations"]:
            image = images.get(annotation["image_id"], {})
            if "file_name" in image and "caption" in annotation:
                found = True
                yield {
                    "file_name": image["file_name"],
                    "caption": annotation["caption"],
                    "coco_image_id": image["id"],
                    "url": image.get("coco_url"),
                }
    except (AttributeError, KeyError, TypeError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise BadInput(f"{file}: is not laid out as COCO captions: {detail}") from error
    if not found:
        raise BadInput(f"{file}: none of its annotations is a caption of one of its images")


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{file}:{number}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BadInput(f"{file}:{number}: is not a JSON object")
            yield row


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 26)  # a long caption must not stop the file
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        try:
            for row in reader:
                yield {str(k): v for k, v in row.items() if k is not None}
        except csv.Error as error:
            raise BadInput(f"{file}:{reader.line_num}: is not CSV: {error}") from error


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            columns = {}
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                    values = column.cast(pa.large_binary()).to_pylist()  # it may be no UTF-8
                    columns[name] = [None if v is None else _escaped(v) for v in values]
                else:
                    columns[name] = column.to_pylist()
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read as parquet: {error}") from error


def _escaped(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")

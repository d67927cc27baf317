"""What can be packed into a corpus: a folder of images with captions, or any data set with an image
column.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vila2data.errors import BadInput
from vila2data.files import inside
from vila2data.keyed import keyed_hash

from .captions import TEXT_COLUMNS, Caption, column_of, first_text, read_captions
from .images import ImageRefused, Problem
from .names import IMAGE_SUFFIXES, key_of

IMAGE_FEATURE = "image"
"""The usual column of ``Image()`` in a data set."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One sample to pack. ``load`` gives the image's bytes or the file that holds them, or raises
    ``ImageRefused``; it is called at most once.
    """

    key: str
    load: Callable[[], bytes | Path]
    text: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)


def _images_in(folder: Path) -> Iterator[Path]:
    paths = folder.rglob("*")
    return (path for path in paths if path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES)


def image_count(folder: Path) -> int | None:
    """How many image files a folder holds, None where it holds none, or is no folder."""
    return sum(1 for _ in _images_in(folder)) or None


def has_shards(folder: Path) -> bool:
    """Whether ``folder`` holds tars, as img2dataset leaves them."""
    return any(folder.glob("*.tar"))


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read what is to be packed; see ``from_folder``, ``from_dataset`` and ``load_rows``."""

    captions: Path | None = None
    image_column: str | None = None
    text_column: str | None = None
    key_column: str | None = None
    config: str | None = None
    split: str = "train"


def items_of(source: str, options: SourceOptions) -> Iterator[SourceItem]:
    """Samples of a folder of images, or else of what ``load_dataset`` takes.

    Raises:
        BadInput: ``source`` is neither, or its captions or columns do not fit.
    """
    folder = Path(source)
    image, text = options.image_column, options.text_column
    if options.captions is not None or next(_images_in(folder), None) is not None:
        return from_folder(folder, options.captions, image_column=image, text_column=text)
    image = image or IMAGE_FEATURE
    rows = load_rows(source, config=options.config, split=options.split, image_column=image)
    return from_dataset(rows, image_column=image, text_column=text, key_column=options.key_column)


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
            JSONL, CSV or parquet; where None, ``NAME.txt`` beside ``NAME.jpg`` is the caption.
        image_column: of the captions; guessed from the usual names where None.
        text_column: as ``image_column``.

    Raises:
        BadInput: the folder or the captions cannot be read, or no column fits.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder of images")
    names = sorted(path.relative_to(folder).as_posix() for path in _images_in(folder))
    if captions is None:
        yield from _distinct(_file_item(folder, n, _text_beside(folder / n)) for n in names)
        return
    known: dict[str, Caption] = {}
    for caption in read_captions(captions, image_column, text_column):
        known.setdefault(caption.image, caption)  # the first caption of an image
    captioned_as = _match(names, known)
    pairs = [(name, known.get(captioned_as.get(name, ""))) for name in names]
    pairs += [(i, known[i]) for i in sorted(known.keys() - set(captioned_as.values()))]
    yield from _distinct(_file_item(folder, name, caption) for name, caption in pairs)


def _distinct(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """``items``, of which the second and later ones of a key are refused when loaded.

    Of each key a hash is remembered: this is what grows with the number of items.
    """
    seen: set[int] = set()
    for item in items:
        key = keyed_hash(item.key)
        yield replace(item, load=_duplicate(item.key)) if key in seen and item.key else item
        seen.add(key)


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
    def load() -> Path:
        path = inside(folder, name)
        if path is None:
            raise ImageRefused(Problem("path_unsafe", name))
        return path

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


def from_dataset(
    rows: Iterable[Mapping[str, Any]],
    *,
    image_column: str = IMAGE_FEATURE,
    text_column: str | None = None,
    key_column: str | None = None,
) -> Iterator[SourceItem]:
    """Rows of a ``datasets`` data set, map-style or streaming, whose image column was cast to
    ``decode=False``.

    Images that rows name by path are read from wherever they lie; ``load_rows`` confines them.

    Args:
        rows: each with ``{"bytes": ..., "path": ...}`` in the image column.
        image_column: the column of ``Image()``.
        text_column: the alt-text; guessed from the usual names where None.
        key_column: unique per row; the row's number with nine digits where None.

    Raises:
        BadInput: a named column is not there.
    """
    items = _dataset_items(rows, image_column, text_column, key_column)
    yield from items if key_column is None else _distinct(items)


def _dataset_items(
    rows: Iterable[Mapping[str, Any]],
    image_column: str,
    text_column: str | None,
    key_column: str | None,
) -> Iterator[SourceItem]:
    for number, row in enumerate(rows):
        image = row[column_of(row, image_column, (), "image column")]
        text_name = text_column or next((c for c in TEXT_COLUMNS if c in row), None)
        if text_name is not None:
            column_of(row, text_name, (), "text column")
        key: Any = f"{number:09d}"
        if key_column is not None:
            key = row[column_of(row, key_column, (), "key column")]
        used = (image_column, text_name, key_column)
        rest = {k: v for k, v in row.items() if k not in used}
        yield SourceItem(
            key=key_of(str("" if key is None else key)),
            load=_embedded(image),
            text=_bytes_of(first_text(row.get(text_name)) if text_name else ""),
            metadata={k: v for k, v in rest.items() if isinstance(v, str | int | float | bool)},
        )


def _embedded(image: Any) -> Callable[[], bytes | Path]:
    def load() -> bytes | Path:
        if not isinstance(image, Mapping):
            told = "no image in the row" if image is None else "is decoded: use decode=False"
            raise ImageRefused(Problem("image_missing", told))
        if isinstance(image.get("problem"), Problem):
            raise ImageRefused(image["problem"])
        content = image.get("bytes")
        if isinstance(content, bytes):
            return content
        if not image.get("path"):
            raise ImageRefused(Problem("image_missing", "no image in the row"))
        return Path(str(image["path"]))

    return load


def load_rows(
    source: str, *, config: str | None, split: str, image_column: str
) -> Iterator[Mapping[str, Any]]:
    """Rows of a data set as ``load_dataset`` or ``load_from_disk`` finds it, the images not
    decoded. A row that names a file outside of ``source`` comes without its image.

    Raises:
        BadInput: it cannot be loaded, or has no such image column.
    """
    import datasets

    rows = _loaded(source, config, split)
    features = rows.features or {}
    if not isinstance(features.get(image_column), datasets.Image):
        raise BadInput(
            f"{source}: column '{image_column}' is no Image(); "
            f"the columns are {', '.join(features)}"
        )
    undecoded = rows.cast_column(image_column, datasets.Image(decode=False))
    return _confined(undecoded, Path(source), image_column)


def _loaded(source: str, config: str | None, split: str) -> Any:
    import datasets

    try:
        if (Path(source) / "state.json").is_file():
            return datasets.load_from_disk(source).to_iterable_dataset()
        if (Path(source) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(source)[split].to_iterable_dataset()
        return datasets.load_dataset(source, config, split=split, streaming=True)
    except KeyError as error:
        raise BadInput(f"{source}: has no split {error}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{source}: cannot be loaded as a data set: {error}") from error


def _confined(
    rows: Iterable[Mapping[str, Any]], folder: Path, image_column: str
) -> Iterator[Mapping[str, Any]]:
    """``rows``; a stranger's data set must not make us pack this machine's files."""
    for row in rows:
        image = row.get(image_column)
        path = image.get("path") if isinstance(image, Mapping) and not image.get("bytes") else None
        if path and not _lies_in(folder, path):
            yield {**row, image_column: {"problem": Problem("path_unsafe", str(path))}}
        else:
            yield row


def _lies_in(folder: Path, path: str) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder.resolve()) and folder.is_dir()
    except (OSError, RuntimeError, ValueError):
        return False

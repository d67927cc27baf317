"""Pairs of rows that share an image or a text: of two tables, or within one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from vila2data.build.views import sql_text
from vila2data.corpus.images import ImageLimits
from vila2data.errors import BadInput

from .candidates import Images, near_images
from .confirm import ImageBytes, Side, confirmed
from .near import MAX_DISTANCE
from .signature import SIGNATURES

if TYPE_CHECKING:
    import duckdb

KINDS = ("image", "near_image", "text")

PAIRS = pa.schema(
    [
        ("left_id", pa.string()),
        ("left_source", pa.string()),
        ("left_image", pa.int32()),
        ("right_id", pa.string()),
        ("right_source", pa.string()),
        ("right_image", pa.int32()),
        ("kind", pa.string()),
        ("distance", pa.int32()),
        ("score", pa.float32()),
        ("same_question", pa.bool_()),
        ("same_text", pa.bool_()),
    ]
)
"""``kind`` is one of ``KINDS``; ``left_image`` and ``right_image`` are null for ``text``, and so is
``distance``, in bits. ``score`` is how alike the pixels are, 0 to 1. ``same_question`` and
``same_text``: the rows share a question, or a question with its answer.
"""

_LINKS = pa.schema(
    [
        ("left_sha256", pa.string()),
        ("right_sha256", pa.string()),
        ("distance", pa.int32()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class PairRules:
    """What counts as the same.

    Attributes:
        max_distance: bits between the hashes of images that are looked at; None compares images by
            their bytes alone.
        min_score: likeness of the pixels of copies, 0 to 1; see ``alignment.similarity``.
        text: whether rows that share a text alone are pairs.
        min_words: how much text that takes; see ``text.words_of``.
        workers: threads that look at pictures; None takes one for each processor.
        memory_mib: of DuckDB; beyond it the disk is used.
    """

    max_distance: int | None = 8
    min_score: float = 0.7
    text: bool = True
    min_words: int = 10
    workers: int | None = None
    memory_mib: int = 2048

    def __post_init__(self) -> None:
        if self.max_distance is not None and not 0 <= self.max_distance <= MAX_DISTANCE:
            raise BadInput(f"max_distance: is {self.max_distance}, must be 0 to {MAX_DISTANCE}")
        if not 0 < self.min_score <= 1:
            raise BadInput(f"min_score: is {self.min_score}, must be above 0 and at most 1")


def find_pairs(
    left: pa.Table,
    right: pa.Table | None,
    *,
    rules: PairRules,
    left_images: ImageBytes | None = None,
    right_images: ImageBytes | None = None,
    limits: ImageLimits | None = None,
) -> pa.Table:
    """The best pair of each image of ``left``, by bytes and by what it shows, and of each row, by
    text.

    Of several pairs of an image and kind, one whose rows share a question is best, then the
    nearest, then the first.

    Args:
        left: with the columns of ``SIGNATURES``; the rows of an id stand together.
        right: the same; None compares ``left`` with itself: the right row of a pair then stands
            before the left one.
        rules: what counts.
        left_images: gives the bytes of candidates; may be None where ``rules.max_distance`` is.
        right_images: the same; not used where ``right`` is None.
        limits: of images that are decoded.

    Returns:
        A table with the columns of ``PAIRS``, in the order of ``left``, then of ``KINDS``.

    Raises:
        BadInput: a column is missing or of another type, or ``left_images`` or ``right_images`` is.
    """
    within = right is None
    tables = [_placed(left, "left"), *([] if right is None else [_placed(right, "right")])]
    with TemporaryDirectory() as folder, _connected(folder, rules) as connection:
        connection.register("ours", tables[0])
        connection.register("theirs", tables[-1])
        _run(connection, "tables")
        links = _LINKS.empty_table()
        if rules.max_distance is not None:
            given = [left_images, left_images if within else right_images]
            links = _near_links(connection, rules, given, limits or ImageLimits(), within=within)
        connection.register("near_links", links)
        settings = {"within": within, "text": rules.text, "min_words": rules.min_words}
        _run(connection, "pairs", settings)
        found: pa.Table = connection.sql("FROM pairs").to_arrow_table()
        return found.cast(PAIRS)


def _placed(table: pa.Table, name: str) -> pa.Table:
    for field in SIGNATURES:
        if field.name not in table.column_names:
            raise BadInput(f"{name}: has no column '{field.name}'")
    try:
        cast = table.select(SIGNATURES.names).cast(SIGNATURES)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise BadInput(f"{name}: columns are not those of signatures: {error}") from error
    return cast.append_column("place", pa.array(range(len(cast)), pa.int64()))


def _connected(folder: str, rules: PairRules) -> "duckdb.DuckDBPyConnection":
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"SET memory_limit = '{rules.memory_mib}MiB'")
    connection.execute(f"SET temp_directory = {sql_text(folder)}")
    return connection


def _run(
    connection: "duckdb.DuckDBPyConnection", name: str, settings: Mapping[str, int] | None = None
) -> None:
    text = (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    for key, value in (settings or {}).items():
        connection.execute(f"SET VARIABLE {key} = {value}")
    connection.execute(text)


def _near_links(
    connection: "duckdb.DuckDBPyConnection",
    rules: PairRules,
    given: Sequence[ImageBytes | None],
    limits: ImageLimits,
    *,
    within: bool,
) -> pa.Table:
    """Images of other bytes that show the same."""
    assert rules.max_distance is not None
    names = ("our_images", "their_images")
    images = [connection.sql(f"FROM {name} ORDER BY place").to_arrow_table() for name in names]
    sides = []
    for name, table, content in zip(("left", "right"), images, given, strict=True):
        if content is None:
            raise BadInput(f"{name}_images: is missing; near images need the bytes of candidates")
        sides.append(Side(table, content, limits))
    candidates = near_images(
        Images.of(images[0]), Images.of(images[1]), rules.max_distance, within=within
    )
    workers = rules.workers or os.cpu_count() or 1
    rows = confirmed(candidates, *sides, min_score=rules.min_score, workers=workers)
    ours, theirs = (table["sha256"].to_pylist() for table in images)
    links = [(ours[mine], theirs[other], bits, score) for mine, other, bits, score in rows]
    found = [dict(zip(_LINKS.names, link, strict=True)) for link in links]
    return pa.Table.from_pylist(found, _LINKS)

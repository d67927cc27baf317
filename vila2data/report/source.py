"""A build, opened for its report."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2data.build.manifest import REJECTS_SUFFIX, Manifest, read_manifest
from vila2data.build.views import connect, readable, sql_name
from vila2data.errors import BadInput

if TYPE_CHECKING:
    import duckdb

_CAPTION_COLUMNS = {"key", "caption", "original", "round"}
_SPECIALISTS = ("spatial", "grounding", "ocr")


@dataclass(frozen=True, slots=True)
class Source:
    """A build and its views.

    Attributes:
        number: place among the builds of the page, from 1.
        label: names the build on the page.
        columns: names of the columns of each config.
    """

    number: int
    path: Path
    label: str
    manifest: Manifest
    connection: "duckdb.DuckDBPyConnection"
    columns: dict[str, list[str]]

    @property
    def anchor(self) -> str:
        """Target of links to the build's section."""
        return f"build-{self.number}"

    @property
    def has_captions(self) -> bool:
        """Whether the build has the views ``captions`` and ``rejects``."""
        return bool(self.rows("SELECT 1 FROM duckdb_views() WHERE view_name = 'captions'"))

    def is_caption(self, config: str) -> bool:
        """Whether the rows of ``config`` are captions, kept or rejected."""
        return set(self.columns[config]) >= _CAPTION_COLUMNS

    def key_of(self, config: str) -> str | None:
        """The column that names a sample, None where there is none."""
        return next((name for name in ("key", "id") if name in self.columns[config]), None)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query whose result is small."""
        with readable(self.path):
            return self.connection.execute(sql, list(parameters)).fetchall()


@contextmanager
def opened(builds: Sequence[Path]) -> Iterator[list[Source]]:
    """The builds, in order, with connections that are closed at the end.

    Raises:
        BadInput: there are none.
        BuildError: one is no build, or cannot be read.
    """
    if not builds:
        raise BadInput("report: give the folder of at least one build")
    manifests = [read_manifest(build) for build in builds]
    labels = [f"{manifest.data_set} {manifest.version}" for manifest in manifests]
    with ExitStack() as stack:
        sources = []
        for number, (build, manifest) in enumerate(zip(builds, manifests, strict=True), start=1):
            label = labels[number - 1]
            if labels.count(label) > 1:
                label = f"{label} ({build.as_posix()})"
            with readable(build):
                connection = stack.enter_context(connect(build))
                columns = {c: _columns(connection, c) for c in manifest.configs}
            sources.append(Source(number, build, label, manifest, connection, columns))
        yield sources


def _columns(connection: "duckdb.DuckDBPyConnection", config: str) -> list[str]:
    cursor = connection.execute(f"SELECT * FROM {sql_name(config)} LIMIT 0")
    return [column[0] for column in cursor.description or []]


def base_of(config: str) -> str:
    """The config whose rejects ``config`` holds, or itself."""
    return config.removesuffix(REJECTS_SUFFIX)


def place_of(config: str) -> tuple[int, int, str, bool]:
    """Sorts configs as they are read: original, rounds by number, specialists, others; each with
    its rejects after it.
    """
    base = base_of(config)
    number = base.removeprefix("round")
    rank, within = len(_SPECIALISTS) + 2, 0
    if base == "original":
        rank = 0
    elif base != number and number.isascii() and number.isdigit():
        rank, within = 1, int(number[:9])
    elif base in _SPECIALISTS:
        rank = 2 + _SPECIALISTS.index(base)
    return rank, within, base, base != config

"""Checks a build against its own manifest and its data set's rules."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from vila2data import registry
from vila2data.errors import Vila2DataError
from vila2data.files import file_sha256, inside

from .builder import Builder
from .manifest import CARD_FILE, CROISSANT_FILE, MANIFEST_FILE, BuildFile, Manifest, read_manifest
from .views import connect


@dataclass(slots=True)
class Verification:
    """What was checked, and what is wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, problems: list[str]) -> None:
        """Notes one check of ``what`` and its problems."""
        self.checked[what] = self.checked.get(what, 0) + 1
        self.problems += problems


def verify(build: Path) -> Verification:
    """Recomputes hashes, counts, columns and the data set's invariants.

    Raises:
        BuildError: the folder is no build, or its manifest is not complete.
    """
    manifest = read_manifest(build)
    found = Verification()
    found.count("file lists", _unlisted(build, manifest))
    found.count("file lists", _croissant_differs(build, manifest))
    sound = True
    for file in manifest.files:
        problems = _file_problems(build, manifest, file)
        found.count("files", problems)
        sound = sound and not problems
    for step in manifest.funnel:
        lost = [] if step.balanced else [f"funnel: {step.step}: rows were lost or invented"]
        found.count("funnel steps", lost)
    if sound:  # the rows of a damaged file say nothing
        found.count("row rules", _row_problems(build, manifest))
    return found


def _unlisted(build: Path, manifest: Manifest) -> list[str]:
    listed = {file.path for file in manifest.files} | {MANIFEST_FILE, CARD_FILE, CROISSANT_FILE}
    there = {p.relative_to(build).as_posix() for p in build.rglob("*") if p.is_file()}
    extra = [
        f"{name}: is in the folder but not in {MANIFEST_FILE}" for name in sorted(there - listed)
    ]
    described = {MANIFEST_FILE, CARD_FILE, CROISSANT_FILE}
    return extra + [f"{name}: is missing" for name in sorted((listed & described) - there)]


def _croissant_differs(build: Path, manifest: Manifest) -> list[str]:
    path = build / CROISSANT_FILE
    if not path.is_file():
        return []  # named as missing already
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told = {f["contentUrl"]: f["sha256"] for f in content["distribution"]}
    except (ValueError, KeyError, TypeError) as error:
        return [f"{CROISSANT_FILE}: cannot be read: {error}"]
    if told != {file.path: file.sha256 for file in manifest.files}:
        return [f"{CROISSANT_FILE}: names other files or hashes than {MANIFEST_FILE}"]
    return []


def _file_problems(build: Path, manifest: Manifest, file: BuildFile) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .write import check_parquet

    path = inside(build, file.path)
    if path is None or not path.is_file():
        return [f"{file.path}: is missing"]
    size = path.stat().st_size
    if size != file.bytes:
        return [f"{file.path}: has {size} bytes, the manifest says {file.bytes}"]
    if file_sha256(path) != file.sha256:
        return [f"{file.path}: its sha256 differs from the manifest's"]
    try:
        rows = pq.read_metadata(path).num_rows
        check_parquet(manifest.data_set, file.config, path)
    except (pa.ArrowException, Vila2DataError) as error:
        return [f"{file.path}: {error}"]
    return (
        []
        if rows == file.rows
        else [f"{file.path}: has {rows} rows, the manifest says {file.rows}"]
    )


def _row_problems(build: Path, manifest: Manifest) -> list[str]:
    from .tables import bound

    builder: type[Builder] = registry.load("builders", manifest.data_set)
    # Beside the system's temporary files: a build is only read here.
    with TemporaryDirectory(prefix="vila2data-") as work, connect(build) as connection:
        bound(connection, work)
        return builder.invariants(connection, manifest)

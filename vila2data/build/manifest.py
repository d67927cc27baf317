"""The manifest of a build, ``build.json``. Light to import: statistics start here."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vila2data.errors import BuildError

MANIFEST_FILE = "build.json"
CARD_FILE = "README.md"
CROISSANT_FILE = "croissant.json"
REJECTS_SUFFIX = "-rejects"


@dataclass(frozen=True, slots=True)
class BuildFile:
    """One parquet file of a build; ``path`` is relative to the build."""

    path: str
    config: str
    split: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """Counts of one step: ``read`` = ``written`` + the sum of ``rejected`` + ``not_sampled``."""

    step: str
    read: int
    written: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    not_sampled: int = 0

    @property
    def balanced(self) -> bool:
        """Whether no row was lost or invented."""
        return self.read == self.written + sum(self.rejected.values()) + self.not_sampled


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a build is and where it came from. It holds no time stamp: the same inputs give the same
    manifest.
    """

    data_set: str
    version: str
    schema_version: int
    license: str
    default_config: str
    recipe: Mapping[str, Any]
    sources: list[Mapping[str, Any]]
    packages: Mapping[str, str]
    files: list[BuildFile]
    funnel: list[FunnelStep]
    stats: Mapping[str, Any]

    @property
    def configs(self) -> list[str]:
        """Names of the configs, in the order in which they were written."""
        return list(dict.fromkeys(file.config for file in self.files))

    def files_of(self, config: str) -> list[BuildFile]:
        """Files of a config, in order."""
        return [file for file in self.files if file.config == config]

    def rows_of(self, config: str) -> int:
        """Rows of a config."""
        return sum(file.rows for file in self.files_of(config))

    def to_json(self) -> str:
        """The text of ``build.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_manifest(build: Path) -> Manifest:
    """The manifest of the build in folder ``build``.

    Raises:
        BuildError: the folder holds no build, or its manifest is not complete.
    """
    file = build / MANIFEST_FILE
    if not file.is_file():
        raise BuildError(
            f"{build}: is no build (it has no {MANIFEST_FILE}); `vila2data build RECIPE` makes one"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        files = [BuildFile(**entry) for entry in content.pop("files")]
        funnel = [FunnelStep(**entry) for entry in content.pop("funnel")]
        manifest = Manifest(**content, files=files, funnel=funnel)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BuildError(f"{file}: is not a complete manifest: {error}") from error
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts:
            raise BuildError(f"{file}: names a file outside the build: {entry.path}")
    return manifest

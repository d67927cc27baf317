"""The manifest in every checkpoint, ``training.json``: what trained it, back to the first model.

It holds no time stamp and no path of the machine: the same inputs give the same bytes. The hash of
a checkpoint's files, which captions carry as ``captioner_revision``, therefore names exactly one
manifest, and the manifest names the builds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vila2data import __version__
from vila2data.engines.checkpoint import folder_revision
from vila2data.errors import BadInput
from vila2data.optional import require

from .architectures.spec import ModelSpec

TRAINING_FILE = "training.json"
MANIFEST_VERSION = 1

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "pyarrow", "pillow", "deepspeed")


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was trained on up to a step, and how the loss went."""

    samples: int = 0
    images: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    skipped: int = 0
    first_loss: float | None = None
    last_loss: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingManifest:
    """What a checkpoint is and where it came from.

    Attributes:
        step: steps that were done.
        steps: of the whole run.
        recipe: resolved, with the preset's values; without ``out``.
        fingerprint: of what the run is bound to.
        initial: the parts of the model that the run began with, each with its revision, and in
            ``trained_by`` the manifest of a part that has one.
        plan: its fingerprint, sizes, and where the rows went.
        sources: builds with version and manifest hash, and corpora.
        setup: device, number of processes, precision, strategy.
        packages: versions.
        metrics: see ``Metrics``.
    """

    step: int
    steps: int
    recipe: Mapping[str, Any]
    fingerprint: str
    initial: Mapping[str, Mapping[str, Any]]
    plan: Mapping[str, Any]
    sources: list[Mapping[str, Any]]
    setup: Mapping[str, Any]
    packages: Mapping[str, str]
    metrics: Metrics
    manifest_version: int = MANIFEST_VERSION

    def to_json(self) -> str:
        """The text of ``training.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def read_training(folder: Path) -> TrainingManifest:
    """The manifest of a checkpoint.

    Raises:
        BadInput: the folder holds none that is complete.
    """
    file = folder / TRAINING_FILE
    if not file.is_file():
        raise BadInput(
            f"{folder}: holds no {TRAINING_FILE}; checkpoints of `vila2data train` have one"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return TrainingManifest(**content | {"metrics": Metrics(**content["metrics"])})
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{file}: is not a complete manifest: {error}") from error


def packages() -> dict[str, str]:
    """Versions of what shapes a training, ours first."""
    found = {"vila2data": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def initial_model(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """The parts that a model starts from, each with its revision: the hash of a folder's files, or
    the commit of a Hub name.
    """
    parts = {name: getattr(spec, name) for name in ("checkpoint", "vision", "language")}
    return {name: _initial_part(part) for name, part in parts.items() if part is not None}


def _initial_part(part: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(part, str):
        return {"name": "config", "revision": None, "config": dict(part)}
    folder = Path(part)
    if not folder.is_dir():
        return {"name": part, "revision": _commit(part)}
    told: dict[str, Any] = {"name": folder.resolve().name, "revision": folder_revision(folder)}
    if (folder / TRAINING_FILE).is_file():
        told["trained_by"] = asdict(read_training(folder))
    return told


def _commit(name: str) -> str | None:
    """The commit that a Hub name stands for here; None where it cannot be read."""
    transformers = require("transformers", extra="train")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        return None  # loading the model says what is wrong
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A stage in a model's history.

    Attributes:
        revision: of the checkpoint's files, as in ``captioner_revision``.
        preset: of the recipe, None where it names none.
        trains: parts that changed.
        sources: what was trained on: builds with version and manifest hash, corpora.
    """

    revision: str | None
    preset: str | None
    trains: list[str]
    sources: list[Mapping[str, Any]]


def lineage(checkpoint: Path) -> list[Ancestor]:
    """The stages that made a checkpoint, the newest first, by its own manifest alone.

    Raises:
        BadInput: it has no manifest.
    """
    told: Mapping[str, Any] | None = asdict(read_training(checkpoint))
    revision: str | None = folder_revision(checkpoint)
    stages = []
    while told is not None:
        recipe = told["recipe"]
        stages.append(Ancestor(revision, recipe["preset"], recipe["trains"], told["sources"]))
        begun = told["initial"].get("checkpoint", {})
        revision, told = begun.get("revision"), begun.get("trained_by")
    return stages

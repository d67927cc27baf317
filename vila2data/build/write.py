"""Writes a build: beside its place, whole, then renamed into it."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock, Timeout

from vila2data.errors import (
    BuildError,
    CountsDoNotBalance,
    RunFailed,
    SchemaMismatch,
    Vila2DataError,
)
from vila2data.files import file_sha256, link_or_copy, raise_if_full_within, sync, write_text
from vila2data.schema import SCHEMA_VERSION, check_table, features_of

from .builder import Builder, OnRows, Prepared
from .card import card_of
from .croissant import croissant_of
from .manifest import CARD_FILE, CROISSANT_FILE, MANIFEST_FILE, BuildFile, Manifest, read_manifest
from .recipe import BuildRecipe
from .tables import bound
from .views import connect

SPLIT = "train"
_PACKAGES = (
    "vila2data",
    "datasets",
    "duckdb",
    "pyarrow",
    "pillow",
    "numpy",
    "transformers",
    "torch",
    "openai",
)
_ROWS_PER_GROUP = 10_000  # at most; a builder that gives smaller tables gets smaller groups


def build_path(recipe: BuildRecipe, data_set: str) -> Path:
    """Where the build of a recipe appears."""
    return recipe.out / data_set / recipe.version


def write_build(
    builder: type[Builder], recipe: BuildRecipe, *, on_rows: OnRows = lambda _: None
) -> Path:
    """Makes the build of ``recipe`` and returns its folder.

    Until the end everything stands in a hidden folder beside it, without a manifest; a call that
    was killed is gone on with by the next.

    Args:
        builder: class that the recipe is for.
        recipe: an instance of the builder's ``RECIPE``.
        on_rows: told of rows that were read, and of those of each config that were written.

    Raises:
        BuildError: the version exists, or another process builds it.
        CountsDoNotBalance: a step lost rows.
        RunFailed: the rows break the data set's invariants, or the disk is full.
    """
    target = build_path(recipe, builder.DATA_SET)
    refuse_existing(target)
    try:
        with _staging(target) as staging:
            prepared = builder.prepare(recipe, staging / "work", on_rows)
            content = staging / "content"
            shutil.rmtree(content, ignore_errors=True)
            _write_tables(builder, recipe, prepared, staging, on_rows)
            manifest = _manifest(builder, recipe, prepared, content)
            _describe(builder, manifest, content)
            _sync_tree(content)
            content.rename(target)
            sync(target.parent)
    except (OSError, duckdb.Error, DatasetGenerationError) as error:
        raise_if_full_within(error, target)
        raise
    return target


def refuse_existing(target: Path) -> None:
    """Raises ``BuildError`` where there is a build, or anything else, at ``target``."""
    if target.exists():
        raise BuildError(
            f"{target} exists, and versions never change: give the recipe a new version"
        )


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target``, held by one process; gone when the work succeeds.

    Raises:
        BuildError: another process holds it, or was faster.
    """
    staging = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BuildError(f"{target}: another process is building this version") from error
    try:
        refuse_existing(target)
        staging.mkdir(exist_ok=True)
        yield staging
        shutil.rmtree(staging)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _write_tables(
    builder: type[Builder],
    recipe: BuildRecipe,
    prepared: Prepared,
    staging: Path,
    on_rows: OnRows,
) -> None:
    data = staging / "content" / "data"
    for config in prepared.carried:
        (data / config).mkdir(parents=True)
        for file in sorted((prepared.base or Path()).joinpath("data", config).glob("*.parquet")):
            link_or_copy(file, data / config / file.name)
    for config in prepared.configs:
        made: Any = builder(  # type: ignore[call-arg]
            config_name=config,
            cache_dir=str(staging / "cache"),
            writer_batch_size=_ROWS_PER_GROUP,
            **prepared.arguments,
        )
        prepared_dir = staging / "prepared" / config
        shutil.rmtree(prepared_dir, ignore_errors=True)
        made.download_and_prepare(
            output_dir=str(prepared_dir),
            file_format="parquet",
            max_shard_size=recipe.max_shard_size,
        )
        files = sorted(prepared_dir.glob("*.parquet"))
        (data / config).mkdir(parents=True)
        for number, file in enumerate(files):
            on_rows(pq.read_metadata(file).num_rows)
            file.rename(data / config / f"{SPLIT}-{number:05d}-of-{len(files):05d}.parquet")


def _manifest(
    builder: type[Builder], recipe: BuildRecipe, prepared: Prepared, content: Path
) -> Manifest:
    order = {config: n for n, config in enumerate([*prepared.carried, *prepared.configs])}
    paths = sorted(content.glob("data/*/*.parquet"), key=lambda p: (order[p.parent.name], p.name))
    files = [_file_of(builder.DATA_SET, path, content) for path in paths]
    base = read_manifest(prepared.base) if prepared.base else None
    earlier = list(base.sources) if base else []
    manifest = Manifest(
        data_set=builder.DATA_SET,
        version=recipe.version,
        schema_version=SCHEMA_VERSION,
        license=recipe.license,
        default_config=prepared.default_config,
        recipe=recipe.model_dump(mode="json"),
        sources=earlier + [source for source in prepared.sources if source not in earlier],
        packages=_packages(),
        files=files,
        funnel=[],
        stats={},
    )
    with connect(content, manifest) as connection:
        bound(connection, content.parent)
        own = [*prepared.funnel, *builder.funnel(connection, manifest)]
        made_anew = {step.step for step in own}
        carried = [s for s in (base.funnel if base else []) if s.step not in made_anew]
        manifest.funnel.extend([*carried, *own])
        stats = builder.statistics(connection, manifest)
        problems = builder.invariants(connection, manifest)
    lost = [step.step for step in manifest.funnel if not step.balanced]
    if lost:
        raise CountsDoNotBalance(f"{content}: rows were lost or invented in {', '.join(lost)}")
    if problems:
        raise RunFailed("the build breaks its own rules:\n  " + "\n  ".join(problems))
    return Manifest(
        **{name: getattr(manifest, name) for name in Manifest.__slots__} | {"stats": stats}
    )


def _file_of(data_set: str, path: Path, content: Path) -> BuildFile:
    config = path.parent.name
    check_parquet(data_set, config, path)
    return BuildFile(
        path=path.relative_to(content).as_posix(),
        config=config,
        split=path.name.partition("-")[0],
        rows=pq.read_metadata(path).num_rows,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )


def check_parquet(data_set: str, config: str, path: Path) -> None:
    """Checks a parquet file's columns against the data set's schema.

    Raises:
        SchemaMismatch: it fits none of the forms that the config may have.
    """
    schema = pq.read_schema(path)
    failures: list[Vila2DataError] = []
    for features in features_of(data_set, config):
        try:
            return check_table(schema, features, where=f"{config}/{path.name}")
        except SchemaMismatch as error:
            failures.append(error)
    raise min(failures, key=lambda e: len(str(e)))  # the form that it comes closest to


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _describe(builder: type[Builder], manifest: Manifest, content: Path) -> None:
    """Card, croissant and, last, the manifest: what has one is complete."""
    write_text(content / CARD_FILE, card_of(manifest, builder.__doc__ or ""))
    write_text(content / CROISSANT_FILE, croissant_of(manifest))
    write_text(content / MANIFEST_FILE, manifest.to_json())


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))

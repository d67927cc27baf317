"""What the core asks of a builder, beside being a ``datasets`` builder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .manifest import FunnelStep, Manifest
from .recipe import BuildRecipe

if TYPE_CHECKING:
    import duckdb

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Prepared:
    """What a build consists of, after the long work and before its files are written.

    Attributes:
        configs: to write, in order, each with the columns of ``vila2data.schema``.
        default_config: what ``load_dataset`` gives without a config.
        carried: configs taken over from ``base`` as they are.
        base: the earlier build that they come from.
        arguments: for the ``datasets`` builder, beside ``config_name`` and ``cache_dir``.
        funnel: counts of the steps that led here.
        sources: what the data came from, with fingerprints.
    """

    configs: list[str]
    default_config: str
    arguments: Mapping[str, Any]
    carried: list[str] = field(default_factory=list)
    base: Path | None = None
    funnel: list[FunnelStep] = field(default_factory=list)
    sources: list[Mapping[str, Any]] = field(default_factory=list)


class Builder(Protocol):
    """A ``datasets.DatasetBuilder`` class that is registered under ``vila2data.builders``."""

    DATA_SET: ClassVar[str]
    RECIPE: ClassVar[type[BuildRecipe]]

    @classmethod
    def prepare(cls, recipe: Any, work: Path, on_rows: OnRows) -> Prepared:
        """Does the work that comes before writing files.

        Args:
            recipe: an instance of ``RECIPE``.
            work: a folder that lives until the build is finished; a killed build finds its work
                again there.
            on_rows: told of rows that were read.
        """
        ...

    @classmethod
    def funnel(
        cls, connection: "duckdb.DuckDBPyConnection", manifest: Manifest
    ) -> list[FunnelStep]:
        """Steps whose counts only the written tables show; ``manifest`` has no funnel yet."""
        ...

    @classmethod
    def invariants(cls, connection: "duckdb.DuckDBPyConnection", manifest: Manifest) -> list[str]:
        """What is wrong with the rows of a build, in words; empty where all is well.

        Computed from the stored rows, and from what the manifest says of the rules that they were
        made by, on another path than the one that made them.
        """
        ...

    @classmethod
    def statistics(
        cls, connection: "duckdb.DuckDBPyConnection", manifest: Manifest
    ) -> dict[str, Any]:
        """Figures for the manifest and the card."""
        ...

    def download_and_prepare(self, output_dir: str, **options: Any) -> None:
        """As ``datasets`` defines it."""
        ...

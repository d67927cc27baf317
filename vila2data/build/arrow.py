"""What the builders share that hand Arrow tables to ``datasets``."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import pyarrow as pa

from vila2data.schema import features_of

from .manifest import FunnelStep, Manifest

if TYPE_CHECKING:
    import duckdb


class TableBuilder(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """A data set of one split, whose columns stand in ``vila2data.schema``.

    A config of which the schema knows two forms, with embedded and with named images, says by
    ``config.embed`` which it is.
    """

    VERSION = datasets.Version("1.0.0")
    DATA_SET: ClassVar[str]

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """The rows of ``self.config``; columns may stand in any order, and be more than needed."""

    @classmethod
    def funnel(
        cls, connection: "duckdb.DuckDBPyConnection", manifest: Manifest
    ) -> list[FunnelStep]:
        """Nothing: every step counts while it works."""
        return []

    def _info(self) -> datasets.DatasetInfo:
        forms = features_of(self.DATA_SET, self.config.name)
        embedded = getattr(self.config, "embed", True)
        return datasets.DatasetInfo(features=forms[0 if embedded else -1])

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={})]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:
        schema = self.info.features.arrow_schema
        for number, table in enumerate(self.tables()):
            yield number, table.select(schema.names).cast(schema)

"""Tables of a build: what it is, where it came from, where its rows went, and its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from vila2data.build.manifest import FunnelStep
from vila2data.build.views import readable
from vila2data.stats import statistics, upright
from vila2data.stats.run import GROUNDING_TABLES, TABLES

from .source import Source

_MAX_ROWS = 100
_MAX_NAMED = 40

# A missing author is the web's: the original texts.
_AUTHORS = """
SELECT config, captioner, captioner_revision AS revision, engine,
       count(*) FILTER (kept) AS kept, count(*) FILTER (NOT kept) AS rejected
FROM (SELECT regexp_replace(config, '-rejects$', '') AS config, round, captioner,
             captioner_revision, engine, kept
      FROM (SELECT config, round, captioner, captioner_revision, engine, true AS kept FROM captions
            UNION ALL
            SELECT config, round, captioner, captioner_revision, engine, false FROM rejects))
WHERE captioner IS NOT NULL
GROUP BY config, captioner, captioner_revision, engine
ORDER BY min(round), config, captioner, revision, engine LIMIT 101
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page; ``hidden_rows`` more were cut off."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    hidden_rows: int = 0

    @classmethod
    def of(cls, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Table":
        """A table with readable column names and a bounded number of rows."""
        rows = list(rows)
        names = [name.replace("_", " ") for name in columns]
        return cls(title, names, rows[:_MAX_ROWS], max(len(rows) - _MAX_ROWS, 0))

    def is_numeric(self, column: int) -> bool:
        """Whether the column holds numbers, and what is missing, alone."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(is_number(value) for value in values)


def is_number(value: object) -> bool:
    """Whether a cell is set flush right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Provenance:
    """One source of a build: its plain facts, and all of it as YAML where there is more."""

    facts: list[tuple[str, Any]]
    yaml: str


def facts_of(source: Source) -> list[tuple[str, Any]]:
    """Name and value of what a build says of itself."""
    manifest = source.manifest
    return [
        ("data set", manifest.data_set),
        ("version", manifest.version),
        ("licence", manifest.license),
        ("schema version", manifest.schema_version),
        ("default config", manifest.default_config),
        ("rows", sum(file.rows for file in manifest.files)),
        ("bytes", sum(file.bytes for file in manifest.files)),
    ]


def configs_table(source: Source) -> Table:
    """Configs with rows and bytes."""
    manifest = source.manifest
    rows = []
    for config in manifest.configs:
        files = manifest.files_of(config)
        splits = ", ".join(dict.fromkeys(file.split for file in files))
        count = sum(file.rows for file in files)
        rows.append((config, splits, count, len(files), sum(file.bytes for file in files)))
    return Table.of("Configs", ("config", "splits", "rows", "files", "bytes"), rows)


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """A step of the funnel, with the parts of what it read in percent."""

    step: FunnelStep
    reasons: list[tuple[str, int]]
    written_percent: float
    rejected_percent: float


def funnel_of(source: Source) -> list[FunnelRow]:
    """Where the rows went, reasons by number."""
    found = []
    for step in source.manifest.funnel:
        reasons = sorted(step.rejected.items(), key=lambda item: (-item[1], item[0]))
        read = max(step.read, 1)
        written, rejected = 100 * step.written / read, 100 * sum(step.rejected.values()) / read
        found.append(FunnelRow(step, reasons[:_MAX_NAMED], written, rejected))
    return found


def authors_table(source: Source) -> Table | None:
    """Who wrote which config; None where the build holds no captions of a model."""
    rows = source.rows(_AUTHORS) if source.has_captions else []
    columns = ("config", "captioner", "revision", "engine", "kept", "rejected")
    return Table.of("Captioners and engines", columns, rows) if rows else None


def provenance_of(source: Source) -> list[Provenance]:
    """The sources of a build."""
    found = []
    for entry in source.manifest.sources:
        plain = [(str(n), v) for n, v in entry.items() if not isinstance(v, dict | list)]
        found.append(Provenance(plain, _yaml(entry) if len(plain) < len(entry) else ""))
    return found


def recipe_of(source: Source) -> str:
    """The resolved recipe as YAML."""
    return _yaml(source.manifest.recipe)


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)).strip()


def caption_tables(source: Source) -> list[Table]:
    """Caption length (Table 1 of the paper), quality signals, rejects, and the boxes of grounding
    captions, where there are any.
    """
    if not source.has_captions:
        return []
    with readable(source.path):
        found = statistics(source.path)
    tables = [(title, found[name]) for name, title in TABLES.items()]
    for name, title in GROUNDING_TABLES.items():
        tables += upright(title, found[name]) if name in found else ()
    return [Table.of(title, table.columns, table.rows) for title, table in tables if table.rows]


def other_statistics(source: Source) -> list[Table]:
    """What else the manifest counts; each data set counts its own."""
    tables = []
    plain = []
    for name, value in source.manifest.stats.items():
        if source.has_captions and name == "captions":
            continue  # counted anew from the rows
        title = name.replace("_", " ").capitalize()
        if isinstance(value, Mapping):
            tables.append(Table.of(title, ("", "value"), [(n, _flat(v)) for n, v in value.items()]))
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            columns = list(dict.fromkeys(str(name) for row in value for name in row))
            rows = [[_flat(row.get(column)) for column in columns] for row in value]
            tables.append(Table.of(title, columns, rows))
        else:
            plain.append((name.replace("_", " "), _flat(value)))
    return [*([Table.of("Statistics", ("", "value"), plain)] if plain else []), *tables]


def _flat(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else _yaml_line(value)


def _yaml_line(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000))


def overview_table(sources: Sequence[Source]) -> list[tuple[Source, list[Any]]]:
    """A row per build: licence, configs, rows, bytes, captions of models kept and rejected."""
    rows = []
    for source in sources:
        manifest = source.manifest
        size = sum(file.bytes for file in manifest.files)
        captions: list[Any] = [None, None]
        if source.has_captions:
            captions = [
                source.rows(f"SELECT count(*) FROM {view} WHERE round > 0")[0][0]
                for view in ("captions", "rejects")
            ]
        total = sum(file.rows for file in manifest.files)
        rows.append((source, [manifest.license, len(manifest.configs), total, size, *captions]))
    return rows


def compared_lengths(tables: Sequence[tuple[Source, Sequence[Table]]]) -> Table | None:
    """Caption lengths of all builds in one table; None where fewer than two have captions."""
    lengths = [
        (source.label, table)
        for source, found in tables
        for table in found
        if table.title == TABLES["length"]
    ]
    if len(lengths) < 2:
        return None
    rows = [(label, *row) for label, table in lengths for row in table.rows]
    return Table.of("Caption length, all builds", ("build", *lengths[0][1].columns), rows)

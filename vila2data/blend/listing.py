"""The catalogue of sources as rows, and as the page docs/sources.md."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from vila2data.errors import BadInput
from vila2data.shown import nearest, shown

from . import catalog
from .catalog import sources
from .source import Source

_HUB = "https://huggingface.co/datasets/"
_HEAD = """# Sources

The catalogue of sources (`vila2data/blend/catalog`) as tables, one for each of its files;
[blends.md](blends.md) tells what it is for. `vila2data sources NAME` shows one of them. After a
change of the catalogue make this page again:

    python -c "from vila2data.blend.listing import page; print(page(), end='')" > docs/sources.md

Rows are as the publisher counts them. Beside the layout stand its columns that the source calls
otherwise: the layout's name, then the source's. What no one has compared with the publisher's own
files is called not checked.

"""
_MARKS = re.compile(r"[\\*|<`\[\]]|(?<!\w)_|_(?!\w)")
_COLUMNS = ("Id", "What it is", "Task", "Licence", "Rows", "Layout", "Where", "Tested on")


@dataclass(frozen=True, slots=True)
class ListedSource:
    """A row of the listing.

    Attributes:
        file: of the catalogue, without suffix.
        columns: the source's name of each of the layout's columns that has another.
        where: id on the Hub with commit, or address.
        files: glob below it.
        records_published: None where the publisher's count is not known.
    """

    id: str
    file: str
    title: str
    task: str
    license: str
    non_commercial: bool
    status: str
    records_published: int | None
    layout: str | None
    columns: Mapping[str, str]
    where: str | None
    files: str
    tested_on: str
    note: str
    substitute: str | None


def rows(names: Sequence[str] = ()) -> list[ListedSource]:
    """The entries of the catalogue.

    Args:
        names: ids; all where there are none.

    Raises:
        BadInput: an id is not in the catalogue.
    """
    known = sources()
    for name in names:
        if name not in known:
            raise BadInput(f"{name}: not in the catalogue of sources{nearest(name, list(known))}")
    return [_listed(name, known[name]) for name in names or known]


def markdown(listed: Iterable[ListedSource]) -> str:
    """Rows as tables, one for each file of the catalogue."""
    by_file: dict[str, list[ListedSource]] = {}
    for row in listed:
        by_file.setdefault(row.file, []).append(row)
    return "\n".join(_table(file, found) for file, found in by_file.items())


def page() -> str:
    """The text of docs/sources.md."""
    return _HEAD + markdown(rows())


@cache
def _file_of() -> MappingProxyType[str, str]:
    """The file of the catalogue in which each entry stands."""
    found = {}
    for file in files(catalog.__name__).iterdir():
        if file.name.endswith(".yaml"):
            names = yaml.safe_load(file.read_text("utf-8"))
            found.update(dict.fromkeys(names, file.name.removesuffix(".yaml")))
    return MappingProxyType(found)


def _listed(name: str, source: Source) -> ListedSource:
    at = f"@{source.revision}" if source.revision else ""
    return ListedSource(
        id=name,
        file=_file_of()[name],
        title=source.title,
        task=source.task,
        license=source.license,
        non_commercial=source.non_commercial,
        status=source.status,
        records_published=source.records_published,
        layout=source.layout,
        columns=dict(source.columns),
        where=f"{source.hub}{at}" if source.hub else source.url,
        files=source.files,
        tested_on=source.tested_on,
        note=source.note.strip(),
        substitute=source.substitute,
    )


def _table(file: str, listed: Sequence[ListedSource]) -> str:
    lines = [f"## {file}", "", _line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [_line(_cells(row)) for row in listed]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: ListedSource) -> list[str]:
    licence = f"{row.license}, non-commercial" if row.non_commercial else row.license
    return [
        f"`{row.id}`",
        _told(row),
        row.task,
        licence,
        shown(row.records_published),
        _layout(row),
        _place(row),
        row.tested_on,
    ]


def _told(row: ListedSource) -> str:
    status = "" if row.status == "available" else f" **{row.status.replace('_', ' ')}**"
    note = f" {row.note[0].upper()}{row.note[1:].rstrip('.')}." if row.note else ""
    other = f" Substitute: `{row.substitute}`." if row.substitute else ""
    return f"{_text(row.title)}.{status}{_text(note)}{other}"


def _layout(row: ListedSource) -> str:
    columns = ", ".join(f"{ours}={theirs}" for ours, theirs in row.columns.items())
    return f"`{row.layout or '–'}`" + (f" {_text(columns)}" if columns else "")


def _place(row: ListedSource) -> str:
    if row.where is None:
        return "–"
    name, _, commit = row.where.partition("@")
    if row.where.startswith("http"):
        return f"<{row.where}>"
    at = f" at {commit[:7]}," if commit else ""
    return f"[{name}]({_HUB}{name}){at} `{row.files}`"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, in the cell that it stands in."""
    return _MARKS.sub(r"\\\g<0>", text)

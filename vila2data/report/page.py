"""The page: what it holds, and its writing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vila2data.errors import BadInput
from vila2data.files import write_text
from vila2data.shown import shown

from .charts import Chart, LengthScale, length_chart, length_scale, verdict_chart
from .facts import (
    FunnelRow,
    Provenance,
    Table,
    authors_table,
    caption_tables,
    compared_lengths,
    configs_table,
    facts_of,
    funnel_of,
    is_number,
    other_statistics,
    overview_table,
    provenance_of,
    recipe_of,
)
from .gallery import Card, cards_of
from .overlay import PALETTE
from .pictures import Canvas, NoPicture, PictureFinder
from .samples import choose_keys
from .source import Source, opened


@dataclass(frozen=True, slots=True)
class Section:
    """What the page says of one build."""

    source: Source
    facts: list[tuple[str, Any]]
    configs: Table
    funnel: list[FunnelRow]
    authors: Table | None
    provenance: list[Provenance]
    recipe: str
    tables: list[Table]
    other: list[Table]
    charts: list[Chart]
    cards: list[Card]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Anchor and name of each part that the section has."""
        numbers = bool(self.charts or self.tables or self.other)
        return [
            ("facts", "Facts"),
            ("funnel", "Where the rows went"),
            *([("numbers", "Numbers")] if numbers else []),
            ("provenance", "Where it came from"),
            *([("samples", "Samples")] if self.cards else []),
        ]


def write_report(
    builds: Sequence[Path],
    out: Path,
    *,
    corpus: Path | None,
    samples: int,
    keys: Sequence[str],
    seed: int,
) -> None:
    """Writes one HTML file that needs no network, no server and no other file.

    The same builds, corpus and seed give the same bytes.

    Args:
        builds: folders; each gets a section, several an overview too.
        out: the file.
        corpus: folder of tars that holds the images of builds that name them by key and hash.
        samples: how many samples are drawn for each build.
        keys: samples to show instead, in each build that holds them.
        seed: of the draw.

    Raises:
        BadInput: a key does not exist, or ``out`` is a folder.
        BuildError: one of ``builds`` is none, or cannot be read.
        CorpusError: ``corpus`` is none.
        MissingExtra: the packages that draw charts are not installed.
    """
    if out.is_dir():
        raise BadInput(f"{out}: is a folder; give the name of a file, such as {out}/report.html")
    with opened(builds) as sources:
        chosen = choose_keys(sources, samples=samples, keys=keys, seed=seed)
        scale = length_scale(sources)
        sections = [
            _section(source, scale, shown, PictureFinder(source.path, corpus))
            for source, shown in zip(sources, chosen, strict=True)
        ]
        page = _render(sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A manifest, being JSON, may hold half a surrogate pair, which no file can.
    write_text(out, page.encode("utf-8", "replace").decode("utf-8"))


def _section(
    source: Source, scale: LengthScale, keys: Sequence[str], finder: PictureFinder
) -> Section:
    return Section(
        source=source,
        facts=facts_of(source),
        configs=configs_table(source),
        funnel=funnel_of(source),
        authors=authors_table(source),
        provenance=provenance_of(source),
        recipe=recipe_of(source),
        tables=caption_tables(source),
        other=other_statistics(source),
        charts=_charts(source, scale),
        cards=cards_of(source, keys, finder),
    )


def _charts(source: Source, scale: LengthScale) -> list[Chart]:
    if not source.has_captions:
        return []
    charts = (length_chart(source, scale), verdict_chart(source))
    return [chart for chart in charts if chart is not None]


def _render(sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("vila2data.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["shown"] = shown
    environment.tests["number_cell"] = is_number
    environment.filters["svg"] = Markup  # checked by check_svg
    labels = [section.source.label for section in sections]
    return environment.get_template("report.html.jinja").render(
        title=labels[0] if len(labels) == 1 else f"{len(labels)} builds",
        sections=sections,
        overview=overview_table([section.source for section in sections]),
        lengths=compared_lengths([(section.source, section.tables) for section in sections]),
        elsewhere=_elsewhere(sections),
        palette=PALETTE,
        phrases=max((card.phrases for section in sections for card in section.cards), default=0),
        is_missing=lambda picture: isinstance(picture, NoPicture),
        is_blank=lambda picture: isinstance(picture, Canvas),
    )


def _elsewhere(sections: Sequence[Section]) -> dict[str, list[tuple[str, str]]]:
    """Label and anchor of each place where a sample is shown, by key."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in sections:
        for card in section.cards:
            place = (section.source.label, card.anchor)
            found.setdefault(card.key, []).append(place)
    return found

"""Charts as static SVG. DuckDB counts into bins, so that a chart does not grow with the rows."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2data.errors import RunFailed
from vila2data.optional import require

from .source import Source, base_of, place_of

_MAX_BARS = 40
_STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000)
_MAX_REASONS = 7
_PASSED = "passed"
_OTHER = "other reasons"
_WIDTH_PX = 430
_GREY = "#8a93a0"
_BAR = "#3f7fd0"
_COLOURS = (
    *("#3d9a6b", "#d9822b", "#c8504f", "#8a63c4", "#b8a02c", "#3f9bb8", "#c2629b", "#8c6d4f"),
    _GREY,
)
_FORBIDDEN = frozenset({"script", "foreignObject", "a", "image", "use", "style", "iframe"})

# Distinct lengths are few, so that this is exact and yet bounded.
_END = """
WITH lengths AS (SELECT num_words, count(*) AS rows FROM captions GROUP BY num_words),
running AS (
    SELECT num_words, sum(rows) OVER (ORDER BY num_words) AS upto, sum(rows) OVER () AS total
    FROM lengths)
SELECT coalesce(min(num_words), 0) FROM running WHERE upto >= 0.995 * total
"""
_BINS = """
SELECT config, least(num_words // $step, $bars - 1) AS bar, count(*) AS rows,
       sum(num_words) AS words, max(num_words) AS longest
FROM captions WHERE num_words IS NOT NULL GROUP BY config, bar ORDER BY config, bar
"""
_VERDICTS = """
SELECT config, NULL AS reason, count(*) AS rows FROM captions GROUP BY config
UNION ALL
SELECT config, coalesce(reject_reason, 'no reason'), count(*) FROM rejects GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class LengthScale:
    """Bars of all length charts of a page: ``bars`` of them, ``step`` words wide each; the last
    holds all that is longer.
    """

    step: int
    bars: int

    @property
    def end(self) -> int:
        """Where the axis ends."""
        return self.step * self.bars


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG that is safe to stand in a page, with its caption."""

    title: str
    svg: str
    note: str


def length_scale(sources: Sequence[Source]) -> LengthScale:
    """One scale for all builds, so that their charts can be compared; it leaves out the longest
    half percent.
    """
    ends = [int(source.rows(_END)[0][0]) for source in sources if source.has_captions]
    longest = max(ends, default=0)
    step = next((s for s in _STEPS if longest // s < _MAX_BARS), -(-longest // _MAX_BARS))
    return LengthScale(step, min(longest // step + 1, _MAX_BARS))


def length_chart(source: Source, scale: LengthScale) -> Chart | None:
    """Caption lengths by config over one axis; None where there are no captions."""
    rows = source.rows(_BINS.replace("$step", str(scale.step)).replace("$bars", str(scale.bars)))
    if not rows:
        return None
    totals: dict[str, tuple[int, int]] = {}
    for config, _, count, words, _ in rows:
        before = totals.get(config, (0, 0))
        totals[config] = (before[0] + count, before[1] + words)
    order = sorted(totals, key=place_of)
    values = [
        {
            "config": config,
            "order": order.index(config),
            "from": bar * scale.step,
            "to": (bar + 1) * scale.step,
            "share": count / totals[config][0],
            "mean": min(totals[config][1] / totals[config][0], scale.end),
        }
        for config, bar, count, _, _ in rows
    ]
    note = f"Share of a config's captions, {_per_bar(scale.step)}; the line is the mean."
    if max(row[4] for row in rows) >= scale.end:
        note += " The last bar holds all longer captions too."
    return Chart("Caption length, words", _svg(_length_spec(values, scale)), note)


def _per_bar(step: int) -> str:
    return "1 word a bar" if step == 1 else f"{step} words a bar"


def _length_spec(values: list[dict[str, Any]], scale: LengthScale) -> Any:
    alt = require("altair", extra="report")
    x = alt.X(
        "from:Q", bin="binned", title=None, scale=alt.Scale(domain=[0, scale.end], nice=False)
    )
    y = alt.Y("share:Q", title=None, axis=alt.Axis(format=".0%", tickCount=2))
    bars = alt.Chart().mark_bar(color=_BAR).encode(x=x, x2="to:Q", y=y)
    mean = alt.Chart().mark_rule(color="currentColor", strokeWidth=1.5).encode(x="mean(mean):Q")
    header = alt.Header(labelAngle=0, labelAnchor="start", labelOrient="top", labelPadding=4)
    sort = alt.EncodingSortField("order", op="min", order="ascending")
    row = alt.Row("config:N", title=None, sort=sort, header=header)
    layers = alt.layer(bars, mean, data=alt.Data(values=values))
    chart = layers.properties(width=_WIDTH_PX, height=64).facet(row=row)
    return chart.resolve_scale(y="independent")


def verdict_chart(source: Source) -> Chart | None:
    """What the gate said, by config and reason; None where there are no captions."""
    counts: dict[str, dict[str, int]] = {}
    for config, reason, rows in source.rows(_VERDICTS):
        of_config = counts.setdefault(base_of(config), {})
        verdict = _PASSED if reason is None else str(reason)
        of_config[verdict] = of_config.get(verdict, 0) + int(rows)
    if not counts:
        return None
    verdicts = _verdicts(counts)
    order = sorted(counts, key=place_of)
    values = [
        {"config": config, "order": order.index(config), **segment}
        for config in order
        for segment in _segments(counts[config], verdicts)
    ]
    note = "Share of a config's rows that passed, or were rejected by reason."
    spec = _verdict_spec(values, verdicts, rows=len(order))
    return Chart("Gate verdicts", _svg(spec), note)


def _verdicts(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is told apart: passed, then the most frequent reasons."""
    totals: dict[str, int] = {}
    for of_config in counts.values():
        for verdict, rows in of_config.items():
            totals[verdict] = totals.get(verdict, 0) + rows
    totals.pop(_PASSED, None)
    reasons = sorted(totals, key=lambda reason: (-totals[reason], reason))
    return [_PASSED, *reasons[:_MAX_REASONS], *([_OTHER] if reasons[_MAX_REASONS:] else [])]


def _segments(of_config: Mapping[str, int], verdicts: list[str]) -> list[dict[str, Any]]:
    total = sum(of_config.values())
    grouped = dict.fromkeys(verdicts, 0)
    for verdict, rows in of_config.items():
        grouped[verdict if verdict in grouped else _OTHER] += rows
    segments = []
    start = 0
    for place, (verdict, rows) in enumerate(grouped.items()):
        edges = {"from": start / total, "to": (start + rows) / total} if total else {}
        if rows and total:
            segments.append({"verdict": verdict, "place": place, **edges})
        start += rows
    return segments


def _verdict_spec(values: list[dict[str, Any]], verdicts: list[str], *, rows: int) -> Any:
    alt = require("altair", extra="report")
    colours = [*_COLOURS[: len(verdicts)]]
    if verdicts[-1] == _OTHER:
        colours[-1] = _GREY
    legend = alt.Legend(title=None, orient="bottom", columns=3, labelLimit=140, symbolLimit=0)
    return (
        alt.Chart(alt.Data(values=values))
        .mark_bar(height=20)
        .encode(
            x=alt.X("from:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=_percent(alt)),
            x2="to:Q",
            y=alt.Y("config:N", title=None, sort=alt.EncodingSortField("order", op="min")),
            color=alt.Color(
                "verdict:N", scale=alt.Scale(domain=verdicts, range=colours), legend=legend
            ),
        )
        .properties(width=_WIDTH_PX - 40, height=max(34 * rows, 60))
    )


def _percent(alt: Any) -> Any:
    return alt.Axis(format=".0%", tickCount=5)


def _svg(chart: Any) -> str:
    """The chart in the page's own text colour, so that it is readable in light and dark."""
    vl_convert = require("vl_convert", extra="report")
    config = {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "facet": {"spacing": 12},
        "axis": {
            "labelColor": "currentColor",
            "labelFontSize": 12,
            "labelLimit": 130,
            "gridColor": _GREY,
            "gridOpacity": 0.25,
            "domainColor": _GREY,
            "tickColor": _GREY,
        },
        "header": {"labelColor": "currentColor", "labelFontSize": 12, "labelLimit": 300},
        "legend": {"labelColor": "currentColor", "labelFontSize": 12},
    }
    svg: str = vl_convert.vegalite_to_svg(
        chart.to_dict() | {"config": config}, allowed_base_urls=[]
    )
    check_svg(svg)
    return svg


def check_svg(svg: str) -> None:
    """Checks that a chart can do nothing but be looked at; its labels come from the data.

    Raises:
        RunFailed: it holds a script, a link, a style or something loaded.
    """
    for element in ET.fromstring(svg).iter():
        tag = element.tag.rpartition("}")[2]
        names = [name.rpartition("}")[2] for name in element.attrib]
        loads = any(re.search(r"url\s*\(", value) for value in element.attrib.values())
        active = any(name.startswith("on") or name in ("href", "style", "id") for name in names)
        if tag in _FORBIDDEN or active or (loads and "aria-label" not in names):
            raise RunFailed(f"report: a chart holds <{tag}>, which no page may hold")

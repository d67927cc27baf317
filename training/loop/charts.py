"""Two pictures of a loop: how long the captions become, and how the scores go, round by round."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vila2data.files import write_text
from vila2data.optional import require

from .results import Summary
from .tables import MAIN_SCORES, SCORES

WORDS_FILE, SCORES_FILE = "words.svg", "scores.svg"
_COLOURS = ("#3f7fd0", "#d9822b", "#3d9a6b", "#c8504f", "#8a63c4", "#7d7461")
_DRAWN = (*MAIN_SCORES, "said_relation_accuracy")
_BEGINNING = "base"
_SIZE_PX = {"width": 420, "height": 240}
_CONFIG = {
    "background": "white",
    "font": "system-ui, sans-serif",
    "padding": {"left": 5, "top": 5, "right": 30, "bottom": 5},  # a reader's font may be wider
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "legend": {"labelFontSize": 12},
}


def write_charts(out: Path, summaries: Sequence[Summary]) -> list[str]:
    """Writes both pictures; their names.

    Raises:
        MissingExtra: altair is not installed.
    """
    charts = {WORDS_FILE: words_chart(summaries), SCORES_FILE: scores_chart(summaries)}
    for name, chart in charts.items():
        write_text(out / name, _svg(chart))
    return list(charts)


def words_chart(summaries: Sequence[Summary]) -> Any:
    """Words of the captions that each model was trained on, with their standard deviation."""
    alt = require("altair", extra="report")
    values = [
        {
            "round": summary.round,
            "words": summary.words.mean,
            "low": max(0.0, summary.words.mean - (summary.words_deviation or 0)),
            "high": summary.words.mean + (summary.words_deviation or 0),
        }
        for summary in summaries
        if summary.words is not None
    ]
    chart = alt.Chart(alt.Data(values=values))
    x = alt.X("round:N", sort=None, title=None, axis=alt.Axis(labelAngle=-30))
    title = "words of a training caption, ± deviation"
    bars = chart.mark_bar(color=_COLOURS[0], size=26).encode(x=x, y=alt.Y("words:Q", title=title))
    rules = chart.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q")
    return alt.layer(bars, rules).properties(**_SIZE_PX)


def scores_chart(summaries: Sequence[Summary]) -> Any:
    """Scores of each model, with the error over scenes as a bar: a line for each figure over the
    rounds, points for what follows them. The base, which has not learned to answer, is left out:
    what the rounds change would look like nothing beside it.
    """
    alt = require("altair", extra="report")
    trained = [summary for summary in summaries if summary.round != _BEGINNING]
    names = [name for name in _DRAWN if any(name in s.figures for s in trained)]
    values = [
        {
            "round": summary.round,
            "score": SCORES[name],
            "share": found.mean,
            "low": found.mean - (found.standard_error or 0),
            "high": found.mean + (found.standard_error or 0),
            "follows": not summary.round.removeprefix("VILA_").isalnum(),
        }
        for summary in trained
        for name in names
        if (found := summary.figures.get(name)) is not None
    ]
    scale = alt.Scale(domain=[SCORES[name] for name in names], range=[*_COLOURS[: len(names)]])
    chart = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("round:N", sort=None, title=None, axis=alt.Axis(labelAngle=-30)),
        color=alt.Color("score:N", scale=scale, title=None),
    )
    title = "share, ± error over scenes"
    y = alt.Y("share:Q", title=title, axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=False))
    lines = chart.mark_line().encode(y=y).transform_filter("!datum.follows")
    points = chart.mark_point(filled=True, size=40).encode(y=y)
    low = alt.Y("low:Q", title=title, axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=False))
    errors = chart.mark_rule().encode(y=low, y2="high:Q")
    # Points come first: what draws all rounds decides their order on the axis.
    return alt.layer(points, errors, lines).properties(**_SIZE_PX)


def _svg(chart: Any) -> str:
    vl_convert = require("vl_convert", extra="report")
    svg: str = vl_convert.vegalite_to_svg(
        chart.to_dict() | {"config": _CONFIG}, allowed_base_urls=[]
    )
    return svg

"""Results as a page of Markdown, in the form of VILA²'s Tables 1 and 3."""

from collections.abc import Iterable, Mapping, Sequence

from .results import Spread, Summary

SCORES: Mapping[str, str] = {
    "object_precision": "Objects P",
    "object_recall": "Objects R",
    "hallucinated_share": "Halluc.",
    "attribute_accuracy": "Attributes",
    "side_accuracy": "Sides",
    "floor_accuracy": "Floor",
    "count_accuracy": "Count",
    "vqa": "VQA",
    "existence_accuracy": "Existence",
    "relation_accuracy": "Relations",
    "relation_accuracy_depth": "of them depth",
    "said_relation_accuracy": "Relations said",
}
"""Figures of the second table, shares, with their headings."""

MAIN_SCORES = (
    "object_precision",
    "object_recall",
    "attribute_accuracy",
    "vqa",
    "relation_accuracy",
)
"""Those that are drawn, and shown at the end of a loop."""

_NONE = "–"
_KIND = "vqa_"
_BLIND = ("object_precision", "object_recall")
_OF_TEXTS = ("words", "words_deviation", "unique_captions", "loss", "loss_shuffled")


def page(summaries: Sequence[Summary], *, seeds: int, pictures: Sequence[str] = ()) -> str:
    """The page.

    Args:
        summaries: of the rounds.
        seeds: how many there are.
        pictures: names of files beside it.
    """
    told = (
        f"{seeds} seed{'s' if seeds != 1 else ''}. A cell is the mean over seeds ± their standard "
        "deviation, where there are several, and in brackets the standard error over scenes of one "
        "seed's figure. Shares are percentages."
    )
    kinds = [n for s in summaries for n in s.figures if n.startswith(_KIND)]
    parts = [
        "# Results of the loop",
        told,
        "## Words of the captions that a model is trained on (VILA², Table 1)",
        words_table(summaries),
        "## Every model on held-out scenes (VILA², Table 3)",
        _figures_table(summaries, SCORES),
        *(f"![{name}]({name})" for name in pictures),
        "## Questions by kind",
        _figures_table(summaries, {n: n.removeprefix(_KIND) for n in dict.fromkeys(kinds)}),
        "## What a model that does not look would get",
        "The captions, each held against another scene than its own.",
        _figures_table(summaries, {f"blind_{name}": SCORES[name] for name in _BLIND}),
        "## The captions as texts",
        _figures_table(summaries, {n: n.replace("_", " ") for n in _OF_TEXTS}, scale=1),
    ]
    return "\n\n".join(parts) + "\n"


def words_table(summaries: Sequence[Summary]) -> str:
    """Words by round, mean ± deviation over captions, and the answers' accuracy of the model."""
    shown = [summary for summary in summaries if summary.words is not None]
    words = [f"{s.words.mean:.1f} ± {s.words_deviation:.1f}" for s in shown if s.words]
    vqa = [cell(s.figures.get("vqa")) for s in shown]
    return table(
        ["", *(s.round for s in shown)],
        [["words ± deviation over captions", *words], ["VQA", *vqa]],
    )


def cell(found: Spread | None, scale: float = 100) -> str:
    """A figure as a table tells it; a dash where there is none.

    Example:
        >>> cell(Spread(0.5, 0.01, 0.02, 3))
        '50.0 ± 1.0 (2.0)'
    """
    if found is None:
        return _NONE
    digits = 1 if scale == 100 else 2
    deviation = "" if found.deviation is None else f" ± {found.deviation * scale:.{digits}f}"
    error = "" if found.standard_error is None else f" ({found.standard_error * scale:.{digits}f})"
    return f"{found.mean * scale:.{digits}f}{deviation}{error}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures_table(
    summaries: Sequence[Summary], headings: Mapping[str, str], scale: float = 100
) -> str:
    rows = [[s.round, *(cell(s.figures.get(n), scale) for n in headings)] for s in summaries]
    return table(["", *headings.values()], rows)

"""Figures of answers as they were generated."""

import re
from collections.abc import Sequence

from .figures import Figure, mean_of_ratios, ratio
from .scenes import Scene

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ARTICLES = frozenset({"a", "an", "the"})

Answers = Sequence[Sequence[str | None]]
"""Of each scene the answers to its questions, in their order; None for one that failed."""


def normalised(answer: str) -> str:
    """An answer in lower case, without punctuation and articles.

    Example:
        >>> normalised(" The red one. ")
        'red one'
    """
    words = _PUNCTUATION.sub(" ", answer.lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def answer_figures(answers: Answers, scenes: Sequence[Scene]) -> dict[str, Figure]:
    """Accuracy by kind of question (``vqa_KIND``) and their unweighted mean (``vqa``); of questions
    whether something is there also the share that is answered "yes" (``existence_yes``).

    Raises:
        ValueError: there are not as many answers as questions.
    """
    kinds = sorted({asked.kind for scene in scenes for asked in scene.questions})
    counts = {kind: _right(answers, scenes, kind) for kind in kinds}
    figures = {"vqa": mean_of_ratios(list(counts.values()))}
    figures |= {f"vqa_{kind}": ratio(pairs) for kind, pairs in counts.items()}
    if "existence" in kinds:
        said_yes = [
            [answer == "yes" for answer, _ in of_kind]
            for of_kind in _of_kind(answers, scenes, "existence")
        ]
        figures["existence_accuracy"] = figures["vqa_existence"]
        figures["existence_yes"] = ratio((sum(said), len(said)) for said in said_yes)
    return figures


def choice_figures(
    chosen: Answers, scenes: Sequence[Scene], kinds: Sequence[str]
) -> dict[str, Figure]:
    """Accuracy of answers that were chosen, by kind (``relation_accuracy_KIND``) and their
    unweighted mean (``relation_accuracy``). None is a question that was not put.

    Raises:
        ValueError: there are not as many answers as questions.
    """
    counts = {kind: _right(chosen, scenes, kind) for kind in kinds}
    return {
        "relation_accuracy": mean_of_ratios(list(counts.values())),
        **{f"relation_accuracy_{kind}": ratio(pairs) for kind, pairs in counts.items()},
    }


def _right(answers: Answers, scenes: Sequence[Scene], kind: str) -> list[tuple[float, float]]:
    return [
        (sum(answer == truth for answer, truth in of_kind), len(of_kind))
        for of_kind in _of_kind(answers, scenes, kind)
    ]


def _of_kind(answers: Answers, scenes: Sequence[Scene], kind: str) -> list[list[tuple[str, str]]]:
    """Of each scene the (answer, truth), both normalised, of its questions of that kind."""
    return [
        [
            (normalised(answer), normalised(asked.answer))
            for answer, asked in zip(given, scene.questions, strict=True)
            if asked.kind == kind and answer is not None
        ]
        for given, scene in zip(answers, scenes, strict=True)
    ]

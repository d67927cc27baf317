"""The walk over the rounds of one seed: how far it goes is decided by what was measured."""

from collections.abc import Callable, Iterator

from vila2data.errors import RunFailed

from ..evaluation.evaluation import read_evaluation
from ..evaluation.gate import gate
from .plan import Planner
from .recipe import PlateauRules
from .rows import Row, row_of
from .stages import Round, Stage

Do = Callable[[Stage], float]
"""Does a stage, or finds it done; returns its seconds."""


class NotDone(Exception):
    """Raised by a ``Do`` that runs nothing, at the first stage that is not done."""


def walk(planner: Planner, do: Do, *, gated: bool = True) -> Iterator[Row]:
    """The rows of a seed, one after another, each once its model is evaluated.

    Args:
        planner: of the seed.
        do: does its stages; where it raises ``NotDone`` the walk ends.
        gated: whether the gate stands before the first round.

    Raises:
        RunFailed: VILA_0 does not look at its images, and there is a gate.
    """
    try:
        yield _measured(planner.base(), do)
        row = _measured(planner.vila(0), do)
        yield row
        if gated:
            _refuse_blind(planner, planner.vila(0))
        rules, number = planner.recipe.loop, 0
        while number < rules.max_rounds:
            number += 1
            before, row = row, _measured(planner.vila(number), do)
            yield row
            if is_plateau(before, row, rules.plateau):
                break
        for further in planner.further(number):
            yield _measured(further, do)
    except NotDone:
        return


def is_plateau(before: Row, now: Row, rules: PlateauRules) -> bool:
    """Whether neither the captions' length nor the scores grew by as much as the rules ask for.

    The length is that of the captions that the two models were trained on; a score is looked at
    where both were given it.
    """
    if before.words is None or now.words is None:
        raise ValueError("rounds have captions")
    words_growth = now.words.mean / before.words.mean - 1 if before.words.mean else float("inf")
    pairs = [(before.value(name), now.value(name)) for name in rules.scores]
    grown = [b - a for a, b in pairs if a is not None and b is not None]
    score_growth = sum(grown) / len(grown) if grown else 0.0
    return words_growth < rules.min_words_growth and score_growth < rules.min_score_growth


def _measured(round_: Round, do: Do) -> Row:
    seconds = sum([do(stage) for stage in round_.stages])
    return row_of(round_, read_evaluation(round_.evaluation), seconds=seconds)


def _refuse_blind(planner: Planner, round_: Round) -> None:
    found = gate(read_evaluation(round_.evaluation), planner.recipe.loop.gate)
    if found:
        raise RunFailed(
            f"seed {planner.seed}: {round_.name} ({round_.checkpoint}) does not look at its images "
            f"well enough for rounds to be worth their time: {'; '.join(found)}. Train it better, "
            "or change loop.gate; all figures: " + str(round_.evaluation)
        )

"""How far a loop goes, and that it goes on where it was stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_making import Pretended, read_loop, write_loop

from vila2data.errors import RunFailed, RunRefused
from vila2data.runfolder import locked
from vila2data.training.evaluation.figures import Figure
from vila2data.training.loop.recipe import LoopRecipe, PlateauRules
from vila2data.training.loop.rows import Row, Words
from vila2data.training.loop.seeds import reread_seed, run_seed
from vila2data.training.loop.walk import is_plateau

GROWING = {"VILA_0": 0.5, "VILA_1": 0.6, "VILA_2": 0.7, "VILA_3": 0.8}


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing takes most of the time of stages that do nothing."""
    monkeypatch.setattr("vila2data.files.sync", lambda path: None)


def loop(folder: Path, *overrides: str, **blocks: Any) -> LoopRecipe:
    return read_loop(write_loop(folder, **blocks), *overrides)


def names(rows: Sequence[Row]) -> list[str]:
    return [row.round for row in rows]


def a_row(words: float, **scores: float | None) -> Row:
    figures = {name: Figure(value, 0.01, 9) for name, value in scores.items()}
    return Row("r", Words(words, 0.0, 1), None, "c", "", 0.0, figures)


@pytest.mark.parametrize(
    ("words", "score", "stops"),
    [
        (12.4, 0.624, True),  # neither
        (12.5, 0.624, False),  # exactly the length's threshold
        (12.4, 0.625, False),  # exactly the scores'
        (13.0, 0.7, False),
        (9.0, 0.4, True),  # both shrink
    ],
)
def test_rounds_stop_where_neither_length_nor_scores_grow(
    words: float, score: float, stops: bool
) -> None:
    rules = PlateauRules(min_words_growth=0.25, min_score_growth=0.125, scores=["vqa"])
    before, now = a_row(10.0, vqa=0.5), a_row(words, vqa=score)
    assert is_plateau(before, now, rules) is stops


def test_the_mean_is_taken_of_scores_that_both_have() -> None:
    rules = PlateauRules(min_words_growth=1, min_score_growth=0.1, scores=["a", "b", "c", "d"])
    before = a_row(10, a=0.2, b=0.5, c=None, d=0.1)
    assert is_plateau(before, a_row(10, a=0.3, b=0.61, c=0.9), rules) is False  # mean 0.105
    assert is_plateau(before, a_row(10, a=0.3, b=0.59, c=0.9), rules) is True  # mean 0.095
    assert is_plateau(before, a_row(10, c=0.9), rules) is True


def test_captions_of_no_words_grow_to_any() -> None:
    assert is_plateau(a_row(0, vqa=0.5), a_row(1, vqa=0.5), PlateauRules()) is False


LENGTHS = st.floats(1, 500)
SHARES = st.floats(0, 1)


@given(LENGTHS, LENGTHS, SHARES, SHARES)
def test_more_growth_never_stops_a_loop_that_less_lets_go_on(
    words: float, more: float, score: float, better: float
) -> None:
    rules = PlateauRules(scores=["vqa"])
    before = a_row(100.0, vqa=0.5)
    if not is_plateau(before, a_row(words, vqa=score), rules):
        higher = a_row(max(words, more), vqa=max(score, better))
        assert not is_plateau(before, higher, rules)


def test_a_loop_ends_at_its_plateau(tmp_path: Path) -> None:
    recipe = loop(tmp_path, loop={"max_rounds": 5})
    call = Pretended({"1.1.0": 60, "1.2.0": 66, "1.3.0": 66}, {**GROWING, "VILA_3": 0.7})
    rows = run_seed(recipe, 0, call=call)
    rounds = ["base", "VILA_0", "VILA_1", "VILA_2", "VILA_3"]
    after = ["-specialist", "-specialist-asked", "+spatial", "+control"]
    assert names(rows) == [*rounds, *(f"VILA_3{which}" for which in after)]
    assert not any("VILA_4" in " ".join(arguments) for arguments in call.calls)


def test_a_loop_ends_after_so_many_rounds(tmp_path: Path) -> None:
    recipe = loop(tmp_path, loop={"max_rounds": 1, "specialist": False, "control": False})
    assert names(run_seed(recipe, 0, call=Pretended())) == ["base", "VILA_0", "VILA_1"]


def test_a_blind_model_is_refused_with_its_figures(tmp_path: Path) -> None:
    gate = {"min_precision_margin": 0.1, "min_recall_margin": 0.1}
    recipe = loop(tmp_path, loop={"gate": gate})
    call = Pretended(scores={"VILA_0": 0.5}, seeing=False)
    with pytest.raises(RunFailed, match=r"^seed 0: VILA_0 .*does not look at its images") as told:
        run_seed(recipe, 0, call=call)
    said = "object_precision - blind_object_precision is 0.500 - 0.500 = 0.000, at least 0.1"
    assert said in str(told.value)
    assert "evaluations/VILA_0.json" in str(told.value)
    assert told.value.exit_status == 1
    assert not any(arguments[0] == "recaption" for arguments in call.calls)
    results = json.loads((tmp_path / "out" / "seed-0" / "results.json").read_text())
    assert [row["round"] for row in results["rows"]] == ["base", "VILA_0"]
    assert names(reread_seed(recipe, 0)) == ["base", "VILA_0"]  # what there is can be told
    # A gate that lets it through lets the same loop go on.
    recipe = loop(tmp_path, loop={"max_rounds": 1})
    assert names(run_seed(recipe, 0, call=call))[:3] == ["base", "VILA_0", "VILA_1"]
    assert sum(arguments[0] == "train" and "align" in arguments[1] for arguments in call.calls) == 1


class Killed(BaseException):
    """Ends a stage as a kill does: nothing after it runs."""


class Dying(Pretended):
    """Kills the loop at its ``at``-th command, before or after the command's work."""

    def __init__(self, at: int, *, after: bool) -> None:
        super().__init__(scores=GROWING)
        self.at, self.after = at, after

    def __call__(self, arguments: Sequence[str]) -> None:
        dies = len(self.calls) == self.at
        if not dies or self.after:
            super().__call__(arguments)
        if dies:
            raise Killed


def results_of(out: Path) -> Any:
    """What a seed came to, but for its seconds."""
    content = json.loads((out / "seed-0" / "results.json").read_text())
    return [{**row, "seconds": None} for row in content["rows"]]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_loop_that_is_killed_at_every_stage_ends_with_the_same_results(
    tmp_path: Path, after: bool
) -> None:
    """Each call comes a stage further, and is killed before or after that stage's work."""
    rules = {"max_rounds": 1, "control": False}
    whole = Pretended(scores=GROWING)
    run_seed(loop(tmp_path / "whole", loop=rules), 0, call=whole)
    assert len(whole.calls) == 22
    recipe = loop(tmp_path / "killed", loop=rules)
    calls: list[Sequence[str]] = []
    kills = 0
    while True:
        dying = Dying(1 if calls or not after else 0, after=after)
        try:
            run_seed(recipe, 0, call=dying)
            break
        except Killed:
            kills += 1
        finally:
            calls += dying.calls
    assert kills >= (15 if after else 21)  # a build that is there is no call
    assert results_of(tmp_path / "killed" / "out") == results_of(tmp_path / "whole" / "out")
    told = [tuple(part.replace("/killed/", "/whole/") for part in call) for call in calls]
    assert list(dict.fromkeys(told)) == whole.calls
    builds = [call for call in told if call[0] == "build"]
    assert len(set(builds)) == len(builds)
    assert after or told == whole.calls


def test_a_finished_loop_runs_nothing(tmp_path: Path) -> None:
    recipe = loop(tmp_path)
    first = run_seed(recipe, 0, call=Pretended(scores=GROWING))
    again = Pretended(scores=GROWING)
    assert run_seed(recipe, 0, call=again) == first
    assert again.calls == []


def test_more_rounds_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    run_seed(loop(tmp_path, loop={"max_rounds": 1}), 0, call=Pretended(scores=GROWING))
    call = Pretended(scores=GROWING)
    rows = run_seed(loop(tmp_path, loop={"max_rounds": 2}), 0, call=call)
    after = ["-specialist", "-specialist-asked", "+spatial", "+control"]
    assert names(rows)[3:] == ["VILA_2", *(f"VILA_2{which}" for which in after)]
    assert not any("VILA_1/" in a for arguments in call.calls for a in arguments if "out=" in a)
    assert not any(arguments[1].endswith("align.yaml") for arguments in call.calls)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.sft.set={optimisation.epochs: 2}",
            "stages.sft.optimisation.epochs: 1 in the run, 2 now",
        ),
        (
            "stages.round.set={recaption.sampling.temperature: 0.5}",
            "stages.round.recaption.sampling.temperature: 1.0 in the run, 0.5 now",
        ),
        ("stages.scenes.set={train: 17}", "stages.scenes.train: 16 in the run, 17 now"),
        ("evaluation.max_tokens=25", "evaluation.max_tokens: 24 in the run, 25 now"),
    ],
)
def test_a_changed_recipe_is_refused_with_the_difference(
    tmp_path: Path, override: str, said: str
) -> None:
    recipe = loop(tmp_path, loop={"max_rounds": 1})
    with pytest.raises(Killed):
        run_seed(recipe, 0, call=Dying(0, after=False))
    with pytest.raises(RunRefused, match=r"was begun with other settings: ") as told:
        run_seed(loop(tmp_path, override), 0, call=Pretended())
    assert said in str(told.value)


def test_another_foundation_is_refused(tmp_path: Path) -> None:
    recipe = loop(tmp_path)
    with pytest.raises(Killed):
        run_seed(recipe, 0, call=Dying(0, after=False))
    (tmp_path / "foundation" / "vision" / "weights").write_text("other")
    with pytest.raises(RunRefused, match=r"foundation\.vision: sha256:\w+ in the run, sha256:\w+"):
        run_seed(recipe, 0, call=Pretended())


@pytest.mark.parametrize(
    "override",
    ["at_once=3", "threads=2", "evaluation.batch_size=5", "loop.plateau.min_words_growth=9"],
)
def test_what_does_not_shape_the_stages_may_change(tmp_path: Path, override: str) -> None:
    with pytest.raises(Killed):
        run_seed(loop(tmp_path), 0, call=Dying(3, after=False))
    assert run_seed(loop(tmp_path, override), 0, call=Pretended(scores=GROWING))


def test_a_seed_is_worked_on_by_one_process(tmp_path: Path) -> None:
    recipe = loop(tmp_path)
    with (
        locked(tmp_path / "out" / "seed-0"),
        pytest.raises(RunRefused, match="seed-0: another process works on this run"),
    ):
        run_seed(recipe, 0, call=Pretended())


@pytest.mark.parametrize("content", ["{", "[]", '{"base/align": {}}', '{"a": {"seconds": "x"}}'])
def test_a_damaged_list_of_stages_is_told(tmp_path: Path, content: str) -> None:
    recipe = loop(tmp_path)
    with pytest.raises(Killed):
        run_seed(recipe, 0, call=Dying(2, after=False))
    file = tmp_path / "out" / "seed-0" / "stages.json"
    file.write_text(content)
    with pytest.raises(RunRefused, match=r"stages\.json: cannot be read as stages that are done"):
        run_seed(recipe, 0, call=Pretended())
    file.unlink()  # as the message says: what is finished is not made again
    call = Pretended(scores=GROWING)
    run_seed(recipe, 0, call=call)
    assert [arguments[0] for arguments in call.calls[:2]] == ["train", "evaluate"]


def test_results_can_be_written_anew_without_running_anything(tmp_path: Path) -> None:
    recipe = loop(tmp_path, loop={"max_rounds": 2})
    assert reread_seed(recipe, 0) == []
    with pytest.raises(Killed):
        run_seed(recipe, 0, call=Dying(14, after=False))
    file = tmp_path / "out" / "seed-0" / "results.json"
    written = file.read_text()
    file.unlink()
    assert names(reread_seed(recipe, 0)) == ["base", "VILA_0", "VILA_1"]
    assert file.read_text() == written

"""Which commands a loop consists of, and what a recipe of a loop may say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from loop_making import options_of, read_loop, settings_of, stage_contents, write_loop

from vila2data.errors import RecipeError
from vila2data.recipe import find_recipe, shipped_recipes
from vila2data.training.loop.plan import Planner
from vila2data.training.loop.recipe import LoopRecipe, StageSpec, setting
from vila2data.training.loop.stages import Stage, check
from vila2data.training.recipe import TrainRecipe


def planner(folder: Path, seed: int = 0, **blocks: Any) -> Planner:
    return Planner(read_loop(write_loop(folder, **blocks)), seed)


def stages(planned: Planner) -> dict[str, Stage]:
    return {stage.name: stage for round_ in planned.all_rounds() for stage in round_.stages}


def told(planned: Planner, name: str) -> dict[str, Any]:
    return settings_of(stages(planned)[name].arguments)


def test_the_rounds_and_their_stages_in_order(tmp_path: Path) -> None:
    found = planner(tmp_path, loop={"max_rounds": 2}).all_rounds()
    retrain = ["train pretrain", "train sft", "evaluate evaluate"]
    again = ["recaption recaption", "build build", *retrain]
    expected = {
        "base": [
            "build scenes",
            "build align_scenes",
            "train align",
            "evaluate evaluate",
        ],
        "VILA_0": retrain,
        "VILA_1": again,
        "VILA_2": again,
        "VILA_2-specialist": [
            "build spatial_relation_qa",
            "build specialist_scenes",
            "train specialist",
            "evaluate evaluate",
        ],
        "VILA_2-specialist-asked": ["evaluate evaluate"],
        "VILA_2+spatial": again,
        "VILA_2+control": again,
    }
    assert {
        r.name: [f"{s.arguments[0]} {s.name.removeprefix(f'{r.name}/')}" for s in r.stages]
        for r in found
    } == expected


@pytest.mark.parametrize(
    ("specialist", "control", "last"),
    [
        (True, False, ["VILA_1-specialist", "VILA_1-specialist-asked", "VILA_1+spatial"]),
        (False, True, ["VILA_1+control"]),
        (False, False, []),
    ],
)
def test_what_follows_the_rounds_can_be_left_out(
    tmp_path: Path, specialist: bool, control: bool, last: list[str]
) -> None:
    loop = {"max_rounds": 1, "specialist": specialist, "control": control}
    names = [round_.name for round_ in planner(tmp_path, loop=loop).all_rounds()]
    assert names == ["base", "VILA_0", "VILA_1", *last]


def test_every_stage_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    planned = planner(tmp_path, seed=0)
    seed = tmp_path / "out" / "seed-0"
    runs, builds = seed / "runs", seed / "builds"
    assert told(planned, "base/align")["model.vision"] == str(tmp_path / "foundation" / "vision")
    for name in ("VILA_0", "VILA_1", "VILA_2", "VILA_2+spatial", "VILA_2+control"):
        pretrain, sft = told(planned, f"{name}/pretrain"), told(planned, f"{name}/sft")
        assert pretrain["model.checkpoint"] == str(runs / "base" / "align" / "model"), name
        assert sft["model.checkpoint"] == f"{pretrain['out']}/model"
        evaluate = stages(planned)[f"{name}/evaluate"]
        assert evaluate.arguments[1] == f"{sft['out']}/model"
    authors = {
        "VILA_1": "VILA_0/sft",
        "VILA_2": "VILA_1/sft",
        "VILA_2+spatial": "VILA_2-specialist/specialist",
        "VILA_2+control": "VILA_2/sft",
    }
    for name, author in authors.items():
        settings = told(planned, f"{name}/recaption")
        assert settings["recaption.engine.model"] == str(runs / author / "model")
        assert settings["recaption.engine.captioner"] == author.partition("/")[0]
        assert told(planned, f"{name}/build") == settings
    assert told(planned, "VILA_2-specialist/specialist")["model.checkpoint"] == str(
        runs / "VILA_2" / "sft" / "model"
    )
    assert stages(planned)["VILA_2/build"].build == builds / "coyo-recap" / "1.2.0"


def test_versions_follow_each_other_on_the_base_of_the_one_before(tmp_path: Path) -> None:
    planned = planner(tmp_path)
    builds = tmp_path / "out" / "seed-0" / "builds" / "coyo-recap"
    names = ("VILA_1", "VILA_2", "VILA_2+spatial", "VILA_2+control")
    found = [told(planned, f"{name}/build") for name in names]
    assert [f["version"] for f in found] == ["1.1.0", "1.2.0", "1.2.1", "1.2.2"]
    bases = [None, *(str(builds / version) for version in ("1.1.0", "1.2.0", "1.2.0"))]
    assert [f["base"] for f in found] == bases
    assert [f["recaption.round"] for f in found] == [1, 2, 3, 3]
    assert len({f["recaption.run"] for f in found}) == 4


def test_recaptions_take_the_place_of_alt_texts_and_of_nothing_else(tmp_path: Path) -> None:
    planned = planner(tmp_path)
    scenes = str(tmp_path / "out" / "seed-0" / "builds" / "scenes" / "1.0.0")
    first, later = told(planned, "VILA_0/pretrain"), told(planned, "VILA_2/pretrain")
    assert first["feed.sources.0.build"] == scenes
    assert "feed.sources.0.column" not in first
    replaced = {
        "feed.sources.0.build": scenes.replace("scenes/1.0.0", "coyo-recap/1.2.0"),
        "feed.sources.0.config": "conversations",
        "feed.sources.0.column": None,
        "out": first["out"].replace("VILA_0", "VILA_2"),
    }
    assert later == first | replaced
    assert told(planned, "VILA_0/sft")["feed.sources.0.build"] == scenes
    unchanged = {**told(planned, "VILA_2/sft"), "out": "", "model.checkpoint": ""}
    assert unchanged == {**told(planned, "VILA_0/sft"), "out": "", "model.checkpoint": ""}


def test_the_control_has_general_captions_by_the_last_model_for_the_specialist_s_turns(
    tmp_path: Path,
) -> None:
    planned = planner(tmp_path)
    spatial, control = (told(planned, f"VILA_2+{n}/recaption") for n in ("spatial", "control"))
    different = {key for key in spatial if spatial[key] != control.get(key)}
    places = {"version", "recaption.run"}
    author = {"recaption.engine.model", "recaption.engine.captioner"}
    assert different == {*places, *author, "recaption.prompts"}
    assert set(spatial) - set(control) == {"recaption.prompts"}  # the control's are the rounds'
    assert spatial["recaption.task"] == "spatial"
    assert spatial["recaption.prompts"] == {"spatial-v1": 1.0, "spatial-v2": 1.0}


def test_a_specialist_is_also_evaluated_by_the_captions_that_it_is_for(tmp_path: Path) -> None:
    planned = stages(planner(tmp_path))
    usual, asked = (
        planned[f"VILA_2-specialist{which}/evaluate"].arguments for which in ("", "-asked")
    )
    different = {(a, b) for a, b in zip(usual, asked, strict=True) if a != b}
    assert {b for _, b in different if b.startswith("spatial")} == {"spatial-v2"}
    assert {Path(a).name for a, b in different} == {"long-v1", "VILA_2-specialist.json"}


def test_align_and_specialist_have_scenes_of_their_own_and_every_seed_others(
    tmp_path: Path,
) -> None:
    file = write_loop(tmp_path)
    seeds = {}
    for seed in (0, 5):
        planned = Planner(read_loop(file), seed)
        last = "VILA_2-specialist"
        names = ("base/scenes", "base/align_scenes", f"{last}/specialist_scenes")
        scenes, align, spatial = made = [told(planned, name) for name in names]
        seeds[seed] = {each["seed"] for each in made}
        assert len({each["out"] for each in made}) == len({each["corpus"] for each in made}) == 3
        training, specialist = told(planned, "base/align"), told(planned, f"{last}/specialist")
        for of, number, own in (
            (training, 0, align),
            (specialist, 1, scenes),
            (specialist, 2, spatial),
        ):
            assert of[f"feed.sources.{number}.build"] == f"{own['out']}/scenes/1.0.0"
            assert of[f"feed.sources.{number}.corpus"] == f"{own['corpus']}/train"
        assert training["seed"] == training["model.seed"] == seed
        places = [p for s in stages(planned).values() for p in s.arguments if "/out/" in p]
        assert all(f"/out/seed-{seed}/" in place for place in places)
    assert len(seeds[0] | seeds[5]) == 6


def test_a_stage_s_own_seed_and_threads_are_kept(tmp_path: Path) -> None:
    specs = {"seed": 7, "hardware.threads": 3, "optimisation.epochs": 2}
    file = write_loop(tmp_path)
    content = yaml.safe_load(file.read_text())
    content["stages"]["sft"]["set"] = specs
    file.write_text(yaml.safe_dump(content))
    settings = told(Planner(read_loop(file), 0), "VILA_0/sft")
    assert {key: settings[key] for key in specs} == specs
    assert told(Planner(read_loop(file), 0), "VILA_0/pretrain")["hardware.threads"] == 1


def test_without_threads_nothing_is_said_of_them(tmp_path: Path) -> None:
    for stage in stages(planner(tmp_path, threads=None)).values():
        given = {*settings_of(stage.arguments), *options_of(stage.arguments)}
        assert not [key for key in given if "threads" in key]


def test_evaluation_is_on_held_out_scenes(tmp_path: Path) -> None:
    evaluation = {"samples": 9, "batch_size": 3, "prompt": "long-v2", "max_tokens": 33}
    planned = planner(tmp_path, evaluation=evaluation)
    seed = tmp_path / "out" / "seed-0"
    assert options_of(stages(planned)["VILA_1/evaluate"].arguments) == {
        "--scenes": str(seed / "builds" / "scenes" / "1.0.0"),
        "--corpus": str(seed / "corpus" / "test"),
        "--samples": "9",
        "--batch-size": "3",
        "--threads": "1",
        "--prompt": "long-v2",
        "--max-tokens": "33",
        "--out": str(seed / "evaluations" / "VILA_1.json"),
    }


def test_planning_writes_nothing(tmp_path: Path) -> None:
    check(stages(planner(tmp_path)).values())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key",
    [
        "out",
        "corpus",
        "base",
        "model.checkpoint",
        "model.vision",
        "feed.sources.0.build",
        "feed.sources.12.corpus",
        "sources.0.path",
        "recaption.run",
        "recaption.round",
        "recaption.engine.model",
        "recaption.engine.captioner",
    ],
)
def test_what_the_loop_fills_in_cannot_be_set(key: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'{key}' is filled in by the loop")):
        StageSpec(recipe="r", set={key: "x"})


@pytest.mark.parametrize("key", ["outside", "feed.sources.0.cap", "recaption.engine.dtype"])
def test_what_the_loop_does_not_fill_in_can_be_set(key: str) -> None:
    assert StageSpec(recipe="r", set={key: 1}).overrides() == [f"{key}=1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.round.set={version: 2.0.0}"], "round: 'version' is filled in by the loop"),
        (["stages.sft.set={a b: 1}"], "'a b' must have the form key.path"),
        (["seeds=[1, 1]"], "seeds: names a seed twice"),
        (["seeds=[-1]"], "seeds: must lie in 0 to 2147483647"),
        (["seeds=[]"], "seeds: Value should have at least 1 item"),
        (["loop.max_rounds=0"], "loop.max_rounds: input should be greater than or equal to 1"),
        (["loop.plateu={}"], "loop.plateu: is no key here; did you mean 'plateau'?"),
        (
            ["foundation=nowhere"],
            "foundation: nowhere: has no folder vision/; `vila2data foundation nano/foundation` makes one",
        ),
    ],
)
def test_mistakes_in_the_recipe_of_a_loop(tmp_path: Path, overrides: list[str], said: str) -> None:
    file = write_loop(tmp_path)
    with pytest.raises(RecipeError, match=re.escape(said)):
        read_loop(file, *overrides)


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("sft", "optimisation.epoch", 2, "optimisation.epoch: is no key here; did you mean 'epoc"),
        ("align", "trains", [], "trains: freezes everything"),
        ("round", "recaption.fraction", 2, "recaption.fraction: input should be less than"),
        ("scenes", "version", "x", "version: "),
    ],
)
def test_mistakes_in_the_recipes_of_stages_are_told_before_anything_runs(
    tmp_path: Path, kind: str, key: str, value: Any, said: str
) -> None:
    file = write_loop(tmp_path)
    with pytest.raises(RecipeError, match=rf"^stages\.{kind}: (.|\n)*{re.escape(said)}"):
        Planner(read_loop(file, f"stages.{kind}.set={ {key: value} }"), 0)


def test_a_recipe_for_something_else_is_refused(tmp_path: Path) -> None:
    file = write_loop(tmp_path)
    align = tmp_path / "align.yaml"
    with pytest.raises(RecipeError, match=r"stages\.round: .*is a recipe for `vila2data train`"):
        Planner(read_loop(file, f"stages.round.recipe={align}"), 0)
    with pytest.raises(RecipeError, match=r"stages\.align: .*is a recipe for `vila2data build`"):
        Planner(read_loop(file, f"stages.align.recipe={tmp_path / 'round.yaml'}"), 0)
    with pytest.raises(RecipeError, match=r"makes sft-blend, coyo-recap is needed$"):
        Planner(read_loop(file, "stages.round.set={builder: sft-blend}"), 0)
    with pytest.raises(RecipeError, match="no such recipe"):
        Planner(read_loop(file, "stages.sft.recipe=nowhere"), 0)


def test_pretraining_without_alt_texts_is_refused(tmp_path: Path) -> None:
    content = stage_contents()["pretrain"]
    content["feed"]["sources"] = content["feed"]["sources"][1:]
    with pytest.raises(RecipeError, match="has no source of `scenes` with column alt_text"):
        planner(tmp_path, stages={"pretrain": content})


def test_sources_of_other_builds_are_left_as_they_are(tmp_path: Path) -> None:
    content = stage_contents()["sft"]
    content["feed"]["sources"].append({"build": "builds/sft-blend/1.0.0"})
    settings = told(planner(tmp_path, stages={"sft": content}), "VILA_1/sft")
    assert not any(key.startswith("feed.sources.1.") for key in settings)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "k=null"),
        (1.0, "k=1.0"),
        ("1.10.0", "k=1.10.0"),
        ("1.0", "k='1.0'"),
        ("a: b", "k='a: b'"),
        (Path("runs/x"), "k=runs/x"),
        ({"a": 1.0}, "k={a: 1.0}"),
        ("long " * 60, "k='" + "long " * 60 + "'"),
    ],
)
def test_a_setting_is_one_line_of_yaml_that_means_the_value(value: Any, text: str) -> None:
    found = setting("k", value)
    assert found == text
    expected = value.as_posix() if isinstance(value, Path) else value
    assert yaml.safe_load(found.removeprefix("k=")) == expected


def test_the_shipped_loops_name_every_key_and_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("vision", "language"):
        (tmp_path / "f" / part).mkdir(parents=True)
    names = [n for n in shipped_recipes() if n.endswith("/loop")]
    assert names == ["nano/loop", "quickstart/loop"]
    for name in names:
        planned = Planner(read_loop(find_recipe(name), "foundation=f"), 0)
        check(stage for round_ in planned.all_rounds() for stage in round_.stages)
    content = yaml.safe_load(find_recipe("nano/loop").read_text())
    assert set(content) == set(LoopRecipe.model_fields)
    for name in ("loop", "evaluation", "stages"):
        model: Any = LoopRecipe.model_fields[name].annotation
        assert set(content[name]) == set(model.model_fields), name
    rules: Any = LoopRecipe.model_fields["loop"].annotation
    for name in ("plateau", "gate"):
        model = rules.model_fields[name].annotation
        assert set(content["loop"][name]) == set(model.model_fields), name


@pytest.mark.parametrize("kind", ["align", "pretrain", "sft", "specialist"])
def test_the_shipped_stages_are_trained_as_they_say(kind: str) -> None:
    content = yaml.safe_load(find_recipe(f"nano/{kind}").read_text())
    recipe = TrainRecipe.model_validate(content)
    assert recipe.hardware.precision == "float32"  # few CPUs are faster with less
    assert recipe.optimisation.batch % recipe.hardware.micro_batch == 0
    assert list(recipe.trains) == content["trains"]

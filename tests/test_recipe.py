import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from vila2data.errors import RecipeError
from vila2data.recipe import find_recipe, load_recipe, parse_recipe, shipped_recipes
from vila2data.training.loop.recipe import LoopRecipe
from vila2data.training.nano.recipe import FoundationRecipe

GOOD = """\
builder: coyo-recap
version: 1.0.0
corpus: .
recaption:
  run: runs/round1
  round: 1
  engine:
    name: openai
    base_url: http://localhost:1/v1
    model: m
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        load_recipe(file, overrides)
    return str(refused.value)


def test_a_good_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.recaption.config == "round1"
    assert recipe.recaption.prompts == {"long-v1": 1.0, "long-v2": 1.0, "long-v3": 1.0}
    assert recipe.recaption.engine.in_flight == 32


def test_five_mistakes_are_all_told_with_line_key_and_nearest_key(tmp_path: Path) -> None:
    text = """\
    builder: coyo-recap
    version: one
    corpus: nowhere
    recaption:
      run: runs/round1
      rond: 1
      round: 1
      fraction: 7
      engine:
        name: transformers
        modle: x
        model: ./x
        batch_size: many
    """
    told = refusal(file := write(tmp_path, text))
    lines = told.splitlines()
    assert lines[0] == f"{file} has 5 mistakes:"
    expected = [
        (2, "version: string should match pattern"),
        (6, "recaption.rond: is no key here; did you mean 'round'?"),
        (8, "recaption.fraction: input should be less than or equal to 1, not 7"),
        (11, "recaption.engine.modle: is no key here; did you mean 'model'?"),
        (13, "recaption.engine.batch_size: input should be a valid integer"),
    ]
    for number, said in expected:
        assert any(line.startswith(f"  {file}:{number}: {said}") for line in lines), told


def test_an_unknown_engine_is_told_with_the_known_ones(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD.replace("name: openai", "name: opnai")))
    assert "recaption.engine: engine 'opnai' is not known; known: " in told
    assert "openai, replay, transformers" in told


def test_an_unknown_builder_is_told_with_the_nearest(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD.replace("coyo-recap", "coyo-recep", 1)))
    assert "recipe.yaml:1: builder: 'coyo-recep' is no builder; did you mean 'coyo-recap'?" in told


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD.replace("  round: 1\n", "")))
    assert "recaption.round: is missing" in told


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD + "version: 2.0.0\n"))
    assert "recipe.yaml:11: version: the key stands twice" in told


def test_unknown_prompts_and_templates_are_told(tmp_path: Path) -> None:
    text = GOOD.replace("  round: 1\n", "  round: 1\n  prompts: {long-v9: 1}\n")
    assert "prompts long-v9 are not known; known: simple, long-v1" in refusal(write(tmp_path, text))
    text = GOOD.replace("  round: 1\n", "  round: 1\n  template: joined\n")
    assert "must be one of recaption_only, concatenated" in refusal(write(tmp_path, text))


def test_greedy_retries_are_refused(tmp_path: Path) -> None:
    text = GOOD + "  sampling: {temperature: 0}\n"
    assert "gives the same text at every retry" in refusal(write(tmp_path, text))
    recipe = load_recipe(write(tmp_path, text), ["recaption.retry.times=0"])
    assert recipe.recaption.sampling.temperature == 0


def test_relative_paths_stay_in_the_working_folder(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD), "corpus=../elsewhere", "out=a/../../b")
    assert "corpus: leaves the working folder" in told
    assert "out: leaves the working folder" in told


@pytest.mark.parametrize("version", ["../1.0.0", "1.0", "v1.0.0", "1.0.0/x", "1.0.0\n", "01.0.0"])
def test_versions_that_are_no_versions_are_refused(tmp_path: Path, version: str) -> None:
    text = GOOD.replace("version: 1.0.0", f"version: {version!r}")
    assert "version: string should match pattern" in refusal(write(tmp_path, text))


def test_overrides_set_values_and_make_blocks(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    recipe = load_recipe(file, ["seed=7", "recaption.sampling.top_p=0.5", "runs=[a, b]"])
    assert (recipe.seed, recipe.recaption.sampling.top_p) == (7, 0.5)
    assert recipe.runs == [Path("a"), Path("b")]


def test_bad_overrides_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, GOOD), "seed", "version.x=1", "recaption.round=none")
    assert "--set seed: must have the form key.path=value" in told
    assert "--set version.x=1: 'version' is a value, not a block" in told
    assert "--set recaption.round=none: recaption.round: input should be a valid integer" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("builder: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_files_that_are_no_recipes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(write(tmp_path, text))


def test_a_recipe_that_does_not_exist_names_the_shipped_ones(tmp_path: Path) -> None:
    told = refusal(tmp_path / "none.yaml")
    assert "no such recipe file; shipped recipes: coyo_recap/round1" in told
    with pytest.raises(RecipeError, match="no such recipe"):
        find_recipe("../../secrets")


def test_every_shipped_recipe_is_valid_and_says_what_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = shipped_recipes()
    assert len(names) >= 11
    for name in names:
        folder = Path(str(files("vila2data.recipes")))
        first = (folder / f"{name}.yaml").read_text().splitlines()
        assert first[0].startswith("# "), name
        assert any(line.startswith("#   vila2data ") for line in first[:5]), name
        content = yaml.safe_load((folder / f"{name}.yaml").read_text())
        if "loop" in content:
            assert parse_recipe(LoopRecipe, name).stages.scenes.recipe == "nano/scenes"
        elif "foundation" in content:
            assert FoundationRecipe.model_validate(content).out == Path("foundation")
        elif "feed" in content:
            check_stage(name, content)
        elif content["builder"] in ("ocr-blend", "llava-instruct", "sft-blend"):
            assert load_recipe(name, ["root=null"]).builder == content["builder"]
        elif content["builder"] == "scenes":
            assert load_recipe(name).train >= 1000
        elif name == "nano/spatial_relation_qa":
            with pytest.raises(
                RecipeError, match=r"has 2 mistakes:\n.*sources.0.path: .*\n.*sources.0.corpus: "
            ):
                load_recipe(name)  # nothing else is wrong with it
        elif "sources" in content:
            check_sources(name, content)
        elif content["builder"] == "grounded-narration":
            Path(content["path"]).mkdir(parents=True, exist_ok=True)
            assert load_recipe(name).path == Path(content["path"])
        else:
            here = ["corpus=.", "recaption.engine.model=m"]
            recipe = load_recipe(name, [*here, "base=null"])
            assert recipe.recaption.engine.model == "m"


def check_stage(name: str, content: Any) -> None:
    """Reads a recipe of training where its inputs are there."""
    from vila2data.training.presets import load_presets
    from vila2data.training.recipe import TrainRecipe

    places = [s.get(key) for s in content["feed"]["sources"] for key in ("build", "corpus")]
    parts = [content["model"].get(key) for key in ("checkpoint", "vision", "language")]
    local = [part for part in parts if part and part.startswith(("foundation/", "runs/"))]
    for place in filter(None, [*local, *places]):
        Path(place).mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(TrainRecipe, name)
    if "preset" not in content:
        return
    preset = load_presets()[content["preset"]]
    assert list(recipe.trains) == preset["trains"]
    told = recipe.optimisation.model_dump()
    assert {key: told[key] for key in preset["optimisation"]} == preset["optimisation"], name


def check_sources(name: str, content: Any) -> None:
    """Reads a recipe of 3D boxes where its inputs are there."""
    for source in content["sources"]:
        path = Path(source["path"])
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        for place in filter(None, [source.get("images"), None if path.suffix else path]):
            Path(place).mkdir(parents=True, exist_ok=True)
    (Path("kitti/training/label_2")).mkdir(parents=True, exist_ok=True)
    (Path("kitti/training/label_2/000000.txt")).touch()
    recipe = load_recipe(
        name,
        [f"sources={yaml.safe_dump([s for s in content['sources'] if s['layout'] != 'nuscenes'])}"],
    )
    assert recipe.sources[0].name in ("sunrgbd", "kitti")


def test_omni3d_documents_every_field() -> None:
    from vila2data.builders.spatial_relation_qa.recipe import SpatialRelationQARecipe
    from vila2data.builders.spatial_relation_qa.sources.omni3d import Omni3D

    content = yaml.safe_load(find_recipe("spatial_relation_qa/omni3d").read_text())
    fields = SpatialRelationQARecipe.model_fields
    assert set(content) == set(fields)
    assert set(content["sources"][0]) == set(Omni3D.model_fields)
    for name in ("scenes", "objects", "relations", "questions", "executor"):
        model = fields[name].annotation
        assert model is not None
        assert set(content[name]) == set(model.model_fields), name
        assert model.model_validate(content[name]) == model(), f"{name}: says other defaults"


def test_grit_documents_every_field() -> None:
    from vila2data.builders.grounded_narration.recipe import GroundedNarrationRecipe, ImageRules

    text = find_recipe("grounded_narration/grit").read_text()
    content = yaml.safe_load(text)
    fields = GroundedNarrationRecipe.model_fields
    assert set(content) == set(fields)
    assert content["executor"].pop("workers") > 1
    content["executor"]["workers"] = 1
    for name in ("boxes", "rows", "phrases", "questions", "split", "executor"):
        model = fields[name].annotation
        assert model is not None
        assert set(content[name]) == set(model.model_fields), name
        assert model.model_validate(content[name]) == model(), f"{name}: says other defaults"
    example = "\n".join(line[2:] for line in text.splitlines() if line.startswith("#   "))
    images = yaml.safe_load(example[example.index("  corpus:") :])
    assert ImageRules.model_validate(images) == ImageRules(corpus=Path("corpora/grit"))


def test_pretrain_documents_every_field() -> None:
    from vila2data.training.architectures.spec import ModelSpec
    from vila2data.training.feed.spec import FeedSpec, SourceSpec
    from vila2data.training.recipe import TrainRecipe

    content = yaml.safe_load(find_recipe("vila2/pretrain").read_text())
    assert set(content) == set(TrainRecipe.model_fields)
    assert set(content["model"]) == set(ModelSpec.model_fields)
    assert set(content["feed"]) == set(FeedSpec.model_fields)
    assert set(content["feed"]["sources"][0]) == set(SourceSpec.model_fields)
    for name in ("optimisation", "hardware", "checkpoints", "logging"):
        model = TrainRecipe.model_fields[name].annotation
        assert model is not None
        assert set(content[name]) == set(model.model_fields), name


def test_shipped_recipes_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for spelling in (
        "coyo_recap/round1",
        "coyo_recap/round1.yaml",
        "recipes/coyo_recap/round1.yaml",
    ):
        assert find_recipe(spelling).name == "round1.yaml"


def test_round1_documents_every_field(tmp_path: Path) -> None:
    """A recipe that names every key, so that a user need not look elsewhere."""
    from vila2data.builders.coyo_recap import CoyoRecapRecipe
    from vila2data.engines.transformers import TransformersConfig
    from vila2data.recaption.spec import RecaptionSpec

    content = yaml.safe_load(find_recipe("coyo_recap/round1").read_text())
    assert set(content) == set(CoyoRecapRecipe.model_fields)
    assert set(content["recaption"]) == set(RecaptionSpec.model_fields)
    assert set(content["recaption"]["engine"]) == set(TransformersConfig.model_fields)
    for name in ("sampling", "retry", "gate", "limits"):
        model = RecaptionSpec.model_fields[name].annotation
        assert model is not None
        assert set(content["recaption"][name]) == set(model.model_fields), name


def test_a_manifest_does_not_tell_absolute_paths(tmp_path: Path) -> None:
    engine = f"recaption.engine={{name: transformers, model: {tmp_path}}}"
    overrides = [f"corpus={tmp_path}", f"out={tmp_path}/builds", engine]
    recipe = load_recipe(write(tmp_path, GOOD), overrides)
    stored = recipe.model_dump_json()
    assert str(tmp_path) not in stored
    told = recipe.model_dump(mode="json")
    assert told["corpus"] == tmp_path.name
    assert told["recaption"]["engine"]["model"] == tmp_path.name
    hub_name = "llava-hf/llava-1.5-7b-hf"
    recipe = load_recipe("coyo_recap/round1", ["corpus=.", f"recaption.engine.model={hub_name}"])
    assert recipe.model_dump(mode="json")["recaption"]["engine"]["model"] == hub_name

"""A stage does what a plain loop does, to the parts that it trains and no others."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_corpus, recipe_content
from train_recipes import make_data, reference, rows_of, train, write_stage

from vila2data.engines.checkpoint import folder_revision
from vila2data.errors import BadInput, RecipeError, RunFailed, RunRefused
from vila2data.recipe import parse_recipe
from vila2data.runfolder import write_shaping
from vila2data.training.architectures.assemble import load, parts_of
from vila2data.training.architectures.spec import ModelSpec
from vila2data.training.feed.plan import load_plan
from vila2data.training.freeze import freeze
from vila2data.training.manifest import lineage, read_training
from vila2data.training.processes import Processes
from vila2data.training.recipe import TrainRecipe
from vila2data.training.run import rehearsed

STAGES = ("vila2/align", "vila2/pretrain", "vila2/sft", "vila2/specialist")
ALONE = Processes(0, 1, "cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def preset_stage(folder: Path, build: Path, preset: str, architecture: str) -> Path:
    """24 samples in 3 steps by a paper's preset, its own rate, schedule and warm-up."""
    import yaml
    from train_recipes import stage_content

    content = stage_content(build, architecture, out=str(folder / "out"))
    content |= {"preset": preset, "optimisation": {"batch": 8}}
    content.pop("trains")
    file = folder / "t.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("architecture", ["llava", "vila"])
@pytest.mark.parametrize("preset", STAGES)
def test_each_step_of_a_stage_is_that_of_a_plain_loop(
    tmp_path: Path, build: Path, preset: str, architecture: str
) -> None:
    file = preset_stage(tmp_path, build, preset, architecture)
    train(file)
    recipe = parse_recipe(TrainRecipe, file)
    plan = load_plan(tmp_path / "out" / "plan")
    rows = rows_of(tmp_path / "out")
    begun, _ = load(recipe.model)
    before = {n: p.detach().clone() for n, p in begun.named_parameters()}
    after: Any = {}
    for row, (loss, weights) in zip(rows, reference(recipe, plan), strict=True):
        after = weights
        assert row["loss"] == pytest.approx(loss, abs=2e-6)
    ended, _ = load(ModelSpec(checkpoint=str(tmp_path / "out" / "model")))
    unchanged = set()
    trained = {n for part in recipe.trains for n in parts_of(ended)[part]}
    for name, parameter in ended.named_parameters():
        if name in trained:
            torch.testing.assert_close(parameter, after[name], rtol=1e-5, atol=2e-6)
            if torch.equal(parameter, before[name]):
                unchanged.add(name)
        else:
            assert torch.equal(parameter, before[name]), name
    assert unchanged == (
        {n for n in trained if _passed_by(n)} if architecture == "llava" else set()
    )


def _passed_by(name: str) -> bool:
    """Weights of a tower of two layers that a LLaVA, which takes the first's features, never uses."""
    return "vision_tower." in name and (".layers.1." in name or ".post_layernorm." in name)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_micro_batches_change_nothing_but_rounding(
    tmp_path: Path, build: Path, micro_batch: int
) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    train(file, f"hardware.micro_batch={micro_batch}")
    recipe = parse_recipe(TrainRecipe, file)
    plan = load_plan(tmp_path / "out" / "plan")
    losses = [loss for loss, _ in reference(recipe, plan)]
    assert [row["loss"] for row in rows_of(tmp_path / "out")] == pytest.approx(losses, abs=5e-6)


@pytest.mark.parametrize("architecture", ["llava", "vila"])
def test_packed_steps_are_those_of_the_unpacked_loop(
    tmp_path: Path, build: Path, architecture: str
) -> None:
    feed = {"packing": True, "context_tokens": 200}
    file = write_stage(tmp_path / "t.yaml", build, architecture, feed=feed)
    settings = ["optimisation.batch=2", "hardware.micro_batch=1"]
    train(file, *settings)
    recipe = parse_recipe(TrainRecipe, file, settings)
    plan = load_plan(tmp_path / "out" / "plan")
    assert plan.items < plan.samples / 2
    losses = [loss for loss, _ in reference(recipe, plan)]
    assert [row["loss"] for row in rows_of(tmp_path / "out")] == pytest.approx(losses, abs=5e-6)


def test_a_model_that_mixes_packed_samples_is_refused(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def blind(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", blind)
    file = write_stage(tmp_path / "t.yaml", build, feed={"packing": True})
    with pytest.raises(BadInput, match=r"^feed\.packing: .* mixes packed samples .*'sdpa'; set"):
        train(file)
    assert not (tmp_path / "out").exists()


def test_freezing_is_by_parameter(build: Path) -> None:
    from tiny_models import tiny_spec

    for architecture in ("llava", "vila"):
        model, _ = load(tiny_spec(build.parents[2] / "tiny", architecture))
        for trains in (["projector"], ["projector", "language"], ["vision"]):
            sizes = freeze(model, trains)
            named = parts_of(model)
            for part, parameters in named.items():
                assert {p.requires_grad for p in parameters.values()} == {part in trains}
            told = {size.part: size.trained for size in sizes}
            counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert sum(told.values()) == counted
            assert all((told[part] > 0) == (part in trains) for part in told)


def test_a_part_that_the_model_lacks_is_refused(build: Path) -> None:
    from tiny_models import tiny_spec

    model, _ = load(tiny_spec(build.parents[2] / "tiny", "llava"))
    with pytest.raises(BadInput, match="the model has no part 'audio'"):
        freeze(model, ["audio"])


def test_a_batch_without_a_trained_token_has_loss_0_and_changes_nothing(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vila2data.training.feed.feed import Feed, Item

    taken = Feed.__getitem__
    monkeypatch.setattr(
        Feed, "__getitem__", lambda self, i: Item([], {"broken": 1}) if i < 8 else taken(self, i)
    )
    metrics = train(write_stage(tmp_path / "t.yaml", build))
    first, *others = rows_of(tmp_path / "out")
    assert (first["loss"], first["grad_norm"], first["skipped"]) == (0.0, 0.0, 8)
    assert all(row["loss"] > 1 for row in others)
    assert (metrics.samples, metrics.skipped) == (16, 8)


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vila2data.training import stage

    def poisoned(batch: Any, scale: Any) -> Any:
        return {**batch, "pixel_values": batch["pixel_values"].float() * float("nan")}

    monkeypatch.setattr(stage, "scaled", poisoned)
    with pytest.raises(RunFailed, match="step 1: the loss is nan; finished checkpoints stay"):
        train(write_stage(tmp_path / "t.yaml", build))
    assert not (tmp_path / "out" / "model").exists()


def test_a_wrong_checkpoint_is_refused_before_anything_is_written(
    tmp_path: Path, build: Path
) -> None:
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=16, intermediate_size=16, **small)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    file = write_stage(tmp_path / "t.yaml", build, model={"checkpoint": str(tmp_path / "llama")})
    with pytest.raises(BadInput, match=r"is a LlamaForCausalLM; accepted: .*Llava"):
        train(file)
    assert not (tmp_path / "out").exists()
    (tmp_path / "llama" / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be loaded"):
        train(file)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_told(tmp_path: Path, build: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadInput, match="torch sees no GPU; give cpu or auto"):
        train(write_stage(tmp_path / "t.yaml", build), "hardware.device=cuda")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    refused: list[Exception] = []

    def second(row: Any, steps: int) -> None:
        if row["step"] == 1:
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

    def attempt() -> None:
        try:
            train(file)
        except RunRefused as error:
            refused.append(error)

    train(file, on_row=second)
    assert [str(e) for e in refused] == [f"{tmp_path}/out: another process works on this run"]
    assert len(rows_of(tmp_path / "out")) == 3


def test_a_finished_run_is_left_alone_and_a_changed_recipe_refused(
    tmp_path: Path, build: Path
) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    train(file)
    revision = folder_revision(tmp_path / "out" / "model")
    assert train(file) is None
    with pytest.raises(RunRefused, match=r"optimisation.learning_rate: 0.001 in the run, 0.01 now"):
        train(file, "optimisation.learning_rate=0.01")
    assert folder_revision(tmp_path / "out" / "model") == revision


@pytest.mark.parametrize("name", ["model", "checkpoint-7"])
def test_what_another_program_left_is_not_taken_for_the_runs_own(
    tmp_path: Path, build: Path, name: str
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(RunRefused, match=f"out/{name}: is of no run that is known"):
        train(write_stage(tmp_path / "t.yaml", build))


def test_the_same_inputs_give_the_same_model_and_manifest_anywhere(
    tmp_path: Path, build: Path
) -> None:
    revisions = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(write_stage(tmp_path / name / "t.yaml", build))
        revisions.add(folder_revision(tmp_path / name / "out" / "model"))
        text = (tmp_path / name / "out" / "model" / "training.json").read_text()
        assert str(tmp_path) not in text
        assert str(build.parents[2]) not in text
    assert len(revisions) == 1


def test_the_manifest_tells_recipe_builds_packages_and_metrics(tmp_path: Path, build: Path) -> None:
    metrics = train(write_stage(tmp_path / "t.yaml", build))
    told = read_training(tmp_path / "out" / "model")
    assert (told.step, told.steps) == (3, 3)
    assert told.recipe["optimisation"]["learning_rate"] == 1e-3
    assert told.metrics == metrics
    rows = rows_of(tmp_path / "out")
    assert (metrics.first_loss, metrics.last_loss) == (rows[0]["loss"], rows[-1]["loss"])
    assert metrics.samples == sum(row["samples"] for row in rows) == told.plan["samples"] == 24
    assert metrics.tokens == told.plan["tokens"]
    assert metrics.trained_tokens == told.plan["trained_tokens"]
    assert told.packages["torch"] == torch.__version__
    assert told.setup == {
        "device": "cpu", "processes": 1, "precision": "float32", "accumulation": 2, "strategy": "none"
    }  # fmt: skip
    assert json.dumps(told.sources).count("1.0.0") >= 1


@pytest.mark.slow
def test_a_caption_leads_back_to_the_builds_that_trained_its_captioner(
    tmp_path: Path, build: Path
) -> None:
    import pyarrow.parquet as pq
    import yaml

    from vila2data.recaption.run import run
    from vila2data.recipe import load_recipe

    (tmp_path / "one").mkdir()
    train(write_stage(tmp_path / "one" / "t.yaml", build, trains=["projector"]))
    (tmp_path / "two").mkdir()
    model = {"checkpoint": str(tmp_path / "one" / "out" / "model")}
    train(write_stage(tmp_path / "two" / "t.yaml", build, model=model))
    captioner = tmp_path / "two" / "out" / "model"
    make_corpus(tmp_path / "corpus", 2)
    engine = {"name": "transformers", "model": str(captioner), "threads": 1}
    content = recipe_content(
        tmp_path, recaption={"engine": engine, "sampling": {"max_tokens": 4}, "retry": {"times": 0}}
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    recipe = load_recipe(tmp_path / "r.yaml")
    run(recipe.recaption, recipe.corpus, seed=0)
    (file,) = (tmp_path / "runs" / "round1" / "shards").glob("*.parquet")
    revisions = set(pq.read_table(file).column("captioner_revision").to_pylist())
    newest, oldest = lineage(captioner)
    assert revisions == {newest.revision}
    assert (newest.trains, oldest.trains) == (["projector", "language"], ["projector"])
    assert oldest.revision == folder_revision(tmp_path / "one" / "out" / "model")
    for stage in (newest, oldest):
        (source,) = [s for s in stage.sources if "coyo-recap" in json.dumps(s)]
        assert source["version"] == "1.0.0"


def test_a_rehearsal_plans_and_writes_nothing(tmp_path: Path, build: Path) -> None:
    recipe = parse_recipe(TrainRecipe, write_stage(tmp_path / "t.yaml", build))
    with rehearsed(recipe, ALONE) as stage:
        assert (stage.steps, stage.plan.samples) == (3, 24)
        folder = stage.plan.folder
    assert not folder.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["t.yaml"]


def test_an_out_that_cannot_be_a_run_is_refused(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    (tmp_path / "taken").write_text("a file")
    for out in ("taken", "taken/run"):
        with pytest.raises(RunRefused, match=r"taken.*: cannot be made a folder: "):
            train(file, f"out={tmp_path / out}")
    with pytest.raises(RecipeError, match=r"out: .*: lies in the build .*, and versions never"):
        train(file, f"out={build / 'runs' / 'here'}")
    other = tmp_path / "recaption"
    other.mkdir()
    write_shaping(other, {"task": "general"})
    with pytest.raises(RunRefused, match=r"is the folder of a run of another kind; give another"):
        train(file, f"out={other}")


def test_a_context_longer_than_the_model_s_is_refused(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    told = r"^feed\.context_tokens: 4096, but the model takes sequences of at most 2048 tokens$"
    with pytest.raises(BadInput, match=told):
        train(file, "feed.context_tokens=4096")
    assert not (tmp_path / "out").exists()


def test_a_changed_source_is_named_by_its_key(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    train(file)
    told = r"other settings: feed\.sources\.0\.cap: None in the run, 20 now\. Set them back"
    with pytest.raises(RunRefused, match=told):
        train(file, "feed.sources.0.cap=20")

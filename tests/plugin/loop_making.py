"""Makes loops: recipes of tiny stages, a tiny foundation, scenes that are drawn in place of being
rendered, and commands that only leave what the real ones would.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from scene_rows import a_row, drawn_rows, write_corpus, write_scenes
from tiny_models import tiny_language, tiny_vision

from vila2data.build.manifest import MANIFEST_FILE, BuildFile, Manifest
from vila2data.errors import BuildError
from vila2data.recipe import parse_recipe
from vila2data.training.evaluation.evaluation import Evaluation
from vila2data.training.evaluation.figures import Figure
from vila2data.training.loop.calls import call_here
from vila2data.training.loop.recipe import LoopRecipe

NO_GATE = dict.fromkeys(
    (
        "min_loss_margin",
        "min_unique_captions",
        "min_precision_margin",
        "min_recall_margin",
        "min_attribute_accuracy",
        "min_side_accuracy",
    )
)
_OPTIMISATION = {"learning_rate": 3e-3, "batch": 8, "epochs": 1}
_HARDWARE = {"device": "cpu", "micro_batch": 8}


def _source(column: str | None, form: str, scenes: str = "scenes") -> dict[str, Any]:
    corpus = f"corpora/{scenes}/train"
    told = {"build": "builds/scenes/1.0.0", "config": "train", "corpus": corpus}
    return {**told, "column": column, "form": form}


def _training(model: Mapping[str, Any], *sources: Mapping[str, Any], **blocks: Any) -> Any:
    base = {
        "model": dict(model),
        "feed": {"sources": list(sources), "context_tokens": 512, "too_long": "skip"},
        "trains": ["projector", "language"],
        "optimisation": _OPTIMISATION,
        "hardware": _HARDWARE,
        "checkpoints": {"every_steps": 2, "keep": 1},
        "out": "runs/x",
    }
    return {**base, **blocks}


def stage_contents() -> dict[str, Any]:
    """The recipes of the stages, by kind."""
    before = {"checkpoint": "runs/x/before/model"}
    parts = {"architecture": "llava", "vision": "x", "language": "x"}
    scenes = {"builder": "scenes", "version": "1.0.0", "license": "cc0-1.0", "corpus": "corpora/x"}
    return {
        "scenes": {**scenes, "train": 16, "test": 6},
        "align": _training(parts, _source("reference", "plain", "align"), trains=["projector"]),
        "pretrain": _training(before, _source("alt_text", "plain"), _source("reference", "plain")),
        "sft": _training(before, _source("questions", "chat")),
        "round": {
            "builder": "coyo-recap",
            "version": "1.0.0",
            "license": "cc0-1.0",
            "corpus": "corpora/x",
            "recaption": {
                "run": "runs/x",
                "round": 1,
                "engine": {"name": "transformers", "model": "m", "dtype": "float32"},
                "sampling": {"temperature": 1.0, "max_tokens": 24},
                "retry": {"times": 0},
            },
        },
        "spatial_relation_qa": {
            "builder": "spatial-relation-qa",
            "version": "1.0.0",
            "license": "cc0-1.0",
            "sources": [
                {
                    "layout": "scenes",
                    "name": "scenes",
                    "path": "x",
                    "corpus": "x",
                    "config": "train",
                }
            ],
            "relations": {"anchors": "unique"},
            "objects": {"unknown_visibility": "pass"},
        },
        "specialist": _training(
            before,
            {"build": "builds/spatial-relation-qa/1.0.0"},
            _source("questions", "chat"),
            _source("messages", "chat", "specialist"),
        ),
    }


def write_loop(folder: Path, *, stages: Mapping[str, Any] | None = None, **blocks: Any) -> Path:
    """Writes the recipe of a loop, and those of its stages, into ``folder``; returns its file.

    Args:
        folder: also of the foundation, where none is given.
        stages: contents of recipes, in place of ``stage_contents``'.
        blocks: of the loop's recipe; ``loop`` is merged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in {**stage_contents(), **(stages or {})}.items():
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    foundation = blocks.pop("foundation", folder / "foundation")
    for part in ("vision", "language"):
        (Path(foundation) / part).mkdir(parents=True, exist_ok=True)
    others = ("align_scenes", "specialist_scenes")
    kinds = [*stage_contents(), *others]
    specs = {kind: {"recipe": str(folder / f"{kind}.yaml"), "set": {}} for kind in kinds}
    for kind in others:
        specs[kind] = {"recipe": str(folder / "scenes.yaml"), "set": {"train": 8}}
    base = {
        "loop": {"max_rounds": 2, "gate": NO_GATE, **blocks.pop("loop", {})},
        "out": str(folder / "out"),
        "foundation": str(foundation),
        "threads": 1,
        "evaluation": {"batch_size": 8, "max_tokens": 24},
        "stages": specs,
    }
    file = folder / "loop.yaml"
    file.write_text(yaml.safe_dump({**base, **blocks}, sort_keys=False))
    return file


def read_loop(file: Path, *overrides: str) -> LoopRecipe:
    """The recipe in a file."""
    return parse_recipe(LoopRecipe, file, overrides)


def make_foundation(folder: Path) -> Path:
    """A tower and a language model of random weights."""
    import torch
    import transformers

    from vila2data.training.tiny import tiny_tokenizer

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "language")
    told = {name: value for name, value in tiny_language().items() if name != "model_type"}
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    config = transformers.LlamaConfig(**told, **ids, vocab_size=len(tokenizer))
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "language")
    told = {n: value for n, value in tiny_vision("siglip").items() if n != "model_type"}
    tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**told))
    tower.save_pretrained(folder / "vision")
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        folder / "vision"
    )
    return folder


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """The last value of each key that a command is given with ``--set``."""
    told = [v for k, v in pairwise(arguments) if k == "--set"]
    return {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in told)}


def options_of(arguments: Sequence[str]) -> dict[str, str]:
    """The values of a command's other options."""
    pairs = pairwise(arguments)
    return {k: v for k, v in pairs if k.startswith("--") and k != "--set"}


def draw_scenes(arguments: Sequence[str]) -> None:
    """What `vila2data build` leaves of a recipe of `scenes`, drawn in a moment."""
    recipe, told = yaml.safe_load(Path(arguments[1]).read_text()), settings_of(arguments)
    build = Path(told["out"]) / "scenes" / recipe["version"]
    if build.exists():
        raise BuildError(
            f"{build} exists, and versions never change: give the recipe a new version"
        )
    corpus = Path(told["corpus"])
    shutil.rmtree(corpus, ignore_errors=True)
    rows = {}
    for config, first in (("train", 0), ("test", 5000)):
        count = int(told.get(config, recipe[config]))
        rows[config] = drawn_rows(count, told["seed"] + first)
        for number, row in enumerate(rows[config]):
            row["key"] = f"{config}-{number:05d}"
            row["alt_text"] = f"a {row['attributes'][0]['color']} {row['attributes'][0]['shape']}"
        write_corpus(corpus / config, rows[config])
    write_scenes(build, rows)


def drawing(arguments: Sequence[str]) -> None:
    """Runs a command in this process; scenes are drawn."""
    if arguments[0] == "build" and Path(arguments[1]).stem == "scenes":
        draw_scenes(arguments)
    else:
        call_here(arguments)


class Pretended:
    """Commands that leave what the real ones would, as far as a loop looks at it.

    Attributes:
        calls: arguments of each call.
        words: how many words the captions of a round have, by version of their build.
        scores: the share that every score of a model is, by name of its round.
        seeing: whether captions fit their own scenes better than others.
    """

    def __init__(
        self,
        words: Mapping[str, int] | None = None,
        scores: Mapping[str, float] | None = None,
        *,
        seeing: bool = True,
    ) -> None:
        self.calls: list[Sequence[str]] = []
        self.words = words or {}
        self.scores = scores or {}
        self.seeing = seeing

    def __call__(self, arguments: Sequence[str]) -> None:
        self.calls.append(tuple(arguments))
        verb, told = arguments[0], settings_of(arguments)
        if verb == "build":
            self._build(Path(arguments[1]).stem, told)
        elif verb == "train":
            model = Path(told["out"]) / "model"
            model.mkdir(parents=True, exist_ok=True)
            start = told.get("model.checkpoint", "foundation")
            (model / "weights.json").write_text(json.dumps([Path(start).parts[-3:], told["seed"]]))
        elif verb == "recaption":
            Path(told["recaption.run"]).mkdir(parents=True, exist_ok=True)
        else:
            self._evaluate(Path(options_of(arguments)["--out"]))

    def _build(self, kind: str, told: Mapping[str, Any]) -> None:
        names = {"round": "coyo-recap", "scenes": "scenes"}
        data_set = names.get(kind, "spatial-relation-qa")
        build = Path(told["out"]) / data_set / told.get("version", "1.0.0")
        if build.exists():
            raise BuildError(f"{build} exists, and versions never change")
        if kind == "scenes":
            row = a_row("k", [])
            rows = [
                {**row, "alt_text": "two words", "reference": "one two three"},
                {**row, "alt_text": "three more words", "reference": None},
            ]
            write_scenes(build, {"train": rows, "test": rows[:1]})
            return
        config = "all"
        if kind == "round":
            general = told.get("recaption.task", "general") == "general"
            config = f"round{told['recaption.round']}" if general else "spatial"
        count = self.words.get(build.name, 10)
        write_captions(build, data_set, config, ["w " * (count - 1), "w " * (count + 1)])

    def _evaluate(self, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        score = self.scores.get(out.stem, 0.5)
        blind = 0.1 if self.seeing else score
        shares = ("object_precision", "object_recall", "attribute_accuracy", "vqa")
        figures = {name: Figure(score, 0.02, 100) for name in (*shares, "relation_accuracy")}
        figures |= {f"blind_{name}": Figure(blind, 0.02, 100) for name in shares[:2]}
        figures["vqa_color"] = Figure(score / 2, 0.03, 50)
        figures["loss"], figures["loss_shuffled"] = Figure(1.0, 0.1, 9), Figure(1.5, 0.1, 9)
        figures["words"] = Figure(20.0, 1.0, 10)
        out.write_text(Evaluation({}, 10, {}, figures).to_json())


def write_captions(build: Path, data_set: str, config: str, captions: Sequence[str | None]) -> Path:
    """A build of one config with a column of captions."""
    path = build / "data" / config / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    keys = pa.array([str(number) for number in range(len(captions))], pa.string())
    pq.write_table(pa.table({"key": keys, "caption": pa.array(captions, pa.string())}), path)
    entry = BuildFile(path.relative_to(build).as_posix(), config, "train", len(captions), 1, "0")
    manifest = Manifest(data_set, build.name, 5, "cc0-1.0", config, {}, [], {}, [entry], [], {})
    (build / MANIFEST_FILE).write_text(manifest.to_json())
    return build

"""Plans the rounds of one seed: commands with every place filled in. Nothing here runs anything."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2data.engines.checkpoint import folder_revision

from ..stage import MODEL_FOLDER
from .recipe import LoopRecipe, setting
from .stages import (
    ALT_TEXT,
    DATA_SETS,
    RECAPTIONS,
    SCENES,
    SPATIAL,
    Round,
    Source,
    Stage,
    StageRecipes,
    Texts,
)

LOOP_VERSION = 3
"""Counts changes to what the stages are; a loop does not go on with another."""

PARTS = ("vision", "language")
_OTHER_SCENES = {"align_scenes": 1_000_000, "specialist_scenes": 2_000_000}
"""What is added to the seed: these scenes are others than those of any loop. They stand in a folder
of their own, which in the recipes of the stages is the name of their corpus."""
_YIELDS = {"seed", "model.seed", "hardware.threads", "recaption.engine.threads"}
"""What is filled in only where the loop's recipe does not set it for a stage."""
_SPATIAL_PROMPTS = {"spatial-v1": 1.0, "spatial-v2": 1.0}
_SPATIAL_PROMPT = "spatial-v2"
"""What a specialist is also evaluated with."""


class Planner:
    """Plans one seed.

    Attributes:
        folder: of everything that its stages leave.
    """

    def __init__(self, recipe: LoopRecipe, seed: int) -> None:
        """Reads the recipes of the stages.

        Raises:
            RecipeError: one holds a mistake.
        """
        self.recipe, self.seed = recipe, seed
        self.folder = recipe.out / f"seed-{seed}"
        self._recipes = StageRecipes(recipe.stages)

    def shaping(self) -> dict[str, Any]:
        """Everything that shapes what the stages leave."""
        foundation = self.recipe.foundation
        return {
            "loop_version": LOOP_VERSION,
            "foundation": {part: folder_revision(foundation / part) for part in PARTS},
            "evaluation": self.recipe.evaluation.model_dump(mode="json", exclude={"batch_size"}),
            "stages": self._recipes.shaping(),
        }

    def all_rounds(self) -> Iterator[Round]:
        """As many as there may be, in order."""
        last = self.recipe.loop.max_rounds
        yield self.base()
        yield from map(self.vila, range(last + 1))
        yield from self.further(last)

    def base(self) -> Round:
        """The foundation's parts with an aligned projector, before it learnt from any caption."""
        name = "base"
        foundation = self.recipe.foundation
        model = {f"model.{part}": foundation / part for part in PARTS} | {"model.seed": self.seed}
        stages = [
            self._make_build(name, "scenes", {"corpus": self._corpus}),
            self._make_other_scenes(name, "align_scenes"),
            self._train(name, "align", model),
        ]
        texts = Texts(self._build("align_scenes"), "train", "reference")
        return self._evaluated(name, stages, "align", texts)

    def vila(self, number: int) -> Round:
        """VILA_0, trained on the original captions, or a later one, on the recaptions of the one
        before.
        """
        name = f"VILA_{number}"
        if number == 0:
            texts = Texts(self._build("scenes"), "train", ALT_TEXT)
            return self._evaluated(name, self._retrain(name, None), "sft", texts)
        version, before = f"1.{number}.0", f"1.{number - 1}.0"
        filled = {
            "version": version,
            "base": self._recaptions(before) if number > 1 else None,
            "recaption.round": number,
            **_author(f"VILA_{number - 1}", self._model(f"VILA_{number - 1}", "sft")),
        }
        stages = [*self._recaption(name, filled), *self._retrain(name, version)]
        texts = Texts(self._recaptions(version), f"round{number}", "caption")
        return self._evaluated(name, stages, "sft", texts)

    def further(self, last: int) -> Iterator[Round]:
        """What follows the last round: the specialist, once more asked for space, the model trained
        on its turns, and the control: general captions by the model of the last round are the turns
        there.
        """
        if self.recipe.loop.specialist:
            specialist = self.specialist(last)
            yield specialist
            yield self._asked_for_space(specialist)
            prompts = {"recaption.prompts": _SPATIAL_PROMPTS}
            yield self.with_turns(last, f"VILA_{last}+spatial", f"1.{last}.1", specialist, prompts)
        if self.recipe.loop.control:
            author = self.vila(last)
            yield self.with_turns(last, f"VILA_{last}+control", f"1.{last}.2", author, {})

    def specialist(self, last: int) -> Round:
        """The model of the last round, fine-tuned on questions about space and on descriptions that
        tell relations.
        """
        name = f"VILA_{last}-specialist"
        tars = self._corpus / "train"
        scenes = {"sources.0.path": self._build("scenes"), "sources.0.corpus": tars}
        model = {"model.checkpoint": self._model(f"VILA_{last}", "sft")}
        stages = [
            self._make_build(name, "spatial_relation_qa", scenes),
            self._make_other_scenes(name, "specialist_scenes"),
            self._train(name, "specialist", model),
        ]
        return self._evaluated(name, stages, "specialist", None)

    def _asked_for_space(self, specialist: Round) -> Round:
        """The same model, whose captions answer a prompt that asks for space."""
        name = f"{specialist.name}-asked"
        out, checkpoint = self._evaluation(name), specialist.checkpoint
        stage = self._evaluate(name, checkpoint, prompt=_SPATIAL_PROMPT)
        return Round(name, [stage], checkpoint, out, None)

    def with_turns(
        self, last: int, name: str, version: str, author: Round, prompts: Mapping[str, Any]
    ) -> Round:
        """As the last round, with a turn more, asked for by a spatial prompt, in what it is trained
        on.

        Args:
            last: number of the last round.
            name: of this one.
            version: of the build.
            author: whose model writes the turns.
            prompts: that it is written by; those of the rounds where empty.
        """
        filled = {
            "version": version,
            "base": self._recaptions(f"1.{last}.0"),
            "recaption.round": last + 1,
            "recaption.task": "spatial",
            **_author(author.name, author.checkpoint),
            **prompts,
        }
        stages = [*self._recaption(name, filled), *self._retrain(name, version)]
        texts = Texts(self._recaptions(version), "spatial", "caption")
        return self._evaluated(name, stages, "sft", texts)

    def _recaption(self, name: str, filled: Mapping[str, Any]) -> list[Stage]:
        run = self.folder / "runs" / name / "recaption"
        places = {"corpus": self._corpus / "train", "out": self.folder / "builds"}
        threads = self._threads("recaption.engine.threads")
        given = self._given("round", {**places, "recaption.run": run, **threads, **filled})
        return [
            Stage(f"{name}/recaption", "round", ["recaption", *given]),
            Stage(f"{name}/build", "round", ["build", *given], self._recaptions(filled["version"])),
        ]

    def _retrain(self, name: str, version: str | None) -> list[Stage]:
        """Pretraining from ``align``'s model, and fine-tuning: the same in every round but for the
        captions, those of a build of ``coyo-recap`` or the original ones.
        """
        start = {"model.checkpoint": self._model("base", "align")}
        pretrained = {"model.checkpoint": self._model(name, "pretrain")}
        return [
            self._train(name, "pretrain", start, version),
            self._train(name, "sft", pretrained, version),
        ]

    def _train(
        self, name: str, kind: str, model: Mapping[str, Any], version: str | None = None
    ) -> Stage:
        out = self.folder / "runs" / name / kind
        sources: dict[str, Any] = {}
        for source in self._recipes.sources(kind):
            places = self._source(source, version)
            sources |= {f"feed.sources.{source.number}.{key}": v for key, v in places.items()}
        threads = self._threads("hardware.threads")
        given = self._given(kind, {**model, **sources, **threads, "out": out})
        return Stage(f"{name}/{kind}", kind, ["train", *given])

    def _source(self, source: Source, version: str | None) -> dict[str, Any]:
        """What is filled in of a source that is a build of a loop's own."""
        if source.data_set == SPATIAL:
            return {"build": self._build("spatial_relation_qa")}
        if source.data_set != SCENES:
            return {}
        others = f"{source.corpus}_scenes"
        if others in _OTHER_SCENES:
            tars = self._folder_of(others) / "corpus" / "train"
            return {"build": self._build(others), "corpus": tars}
        corpus = {"corpus": self._corpus / "train"}
        if source.column == ALT_TEXT and version is not None:
            conversations = {"config": "conversations", "column": None}
            return {"build": self._recaptions(version), **conversations, **corpus}
        return {"build": self._build("scenes"), **corpus}

    def _make_other_scenes(self, name: str, kind: str) -> Stage:
        return self._make_build(name, kind, {"corpus": self._folder_of(kind) / "corpus"})

    def _make_build(self, name: str, kind: str, filled: Mapping[str, Any]) -> Stage:
        build = self._build(kind)
        given = self._given(kind, {**filled, "out": build.parents[1]})
        return Stage(f"{name}/{kind}", kind, ["build", *given], build)

    def _evaluated(
        self, name: str, stages: Sequence[Stage], trained: str, texts: Texts | None
    ) -> Round:
        checkpoint = self._model(name, trained)
        evaluate = self._evaluate(name, checkpoint, prompt=self.recipe.evaluation.prompt)
        return Round(name, [*stages, evaluate], checkpoint, self._evaluation(name), texts)

    def _evaluate(self, name: str, checkpoint: Path, *, prompt: str) -> Stage:
        spec = self.recipe.evaluation
        options: Mapping[str, Any] = {
            "scenes": self._build("scenes"),
            "corpus": self._corpus / "test",
            "samples": spec.samples,
            "batch-size": spec.batch_size,
            "threads": self.recipe.threads,
            "prompt": prompt,
            "max-tokens": spec.max_tokens,
            "out": self._evaluation(name),
        }
        given = [p for n, v in options.items() if v is not None for p in (f"--{n}", str(v))]
        return Stage(f"{name}/evaluate", None, ["evaluate", str(checkpoint), *given])

    def _evaluation(self, name: str) -> Path:
        return self.folder / "evaluations" / f"{name}.json"

    def _given(self, kind: str, filled: Mapping[str, Any]) -> list[str]:
        """Recipe and settings of a stage; the last one of a key wins."""
        spec = self._recipes.spec(kind)
        own = {"seed": self.seed + _OTHER_SCENES.get(kind, 0), **filled}
        kept = {
            key: value for key, value in own.items() if not (key in _YIELDS and key in spec.set)
        }
        settings = [*spec.overrides(), *(setting(key, value) for key, value in kept.items())]
        return [spec.recipe, *(part for told in settings for part in ("--set", told))]

    def _threads(self, key: str) -> dict[str, int]:
        return {} if self.recipe.threads is None else {key: self.recipe.threads}

    def _build(self, kind: str) -> Path:
        builds = self._folder_of(kind) / "builds"
        return builds / DATA_SETS[kind] / self._recipes.version(kind)

    def _folder_of(self, kind: str) -> Path:
        others = kind in _OTHER_SCENES
        return self.folder / kind.removesuffix("_scenes") if others else self.folder

    def _recaptions(self, version: str) -> Path:
        return self.folder / "builds" / RECAPTIONS / version

    @property
    def _corpus(self) -> Path:
        return self.folder / "corpus"

    def _model(self, name: str, kind: str) -> Path:
        return self.folder / "runs" / name / kind / MODEL_FOLDER


def _author(name: str, checkpoint: Path) -> dict[str, Any]:
    """Who captions, and what the captions call it."""
    return {"recaption.engine.model": checkpoint, "recaption.engine.captioner": name}

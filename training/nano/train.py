"""Trains a foundation and takes it apart."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from vila2data.builders.scenes.world import COLORS, SHAPES
from vila2data.errors import RunRefused
from vila2data.keyed import keyed_hash
from vila2data.optional import require
from vila2data.runfolder import locked, read_shaping, refuse_differences, write_shaping

from ..architectures.assemble import assemble
from ..architectures.spec import ModelSpec
from .figures import measure, measure_pairs
from .model import FoundationModel
from .recipe import FoundationRecipe, Phase
from .samples import Collator, Samples, scene_rows
from .tokenizer import make_tokenizer, words_of

RECORD = "foundation.json"
_HEAD_WIDTH = 32
_TEXT_COLUMNS = ("alt_text", "reference")
OnStep = Callable[[int, Mapping[str, float]], None]


def train_foundation(recipe: FoundationRecipe, on_step: OnStep = lambda step, losses: None) -> Path:
    """Trains, or goes on, and leaves ``vision/``, ``language/`` and ``foundation.json``.

    Args:
        recipe: of the foundation.
        on_step: told of each finished step and its losses.

    Returns:
        ``recipe.out``; one that is finished is kept.

    Raises:
        BadInput: builds or corpus cannot be used.
        RunRefused: the run's folder, or ``out``, belongs to other settings.
    """
    require("accelerate", extra="train")
    shaping = json.loads(json.dumps(recipe.shaping()))
    with locked(recipe.run):
        begun = read_shaping(recipe.run)
        if begun is None:
            write_shaping(recipe.run, shaping)
        else:
            remedy = "Set them back, or give another `run`"
            refuse_differences(recipe.run, begun, shaping, remedy=remedy)
        if not recipe.out.exists():
            model, processor = _trained(recipe, on_step)
            partial = recipe.out.with_name(f".{recipe.out.name}.partial")
            rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            held_out = _samples(recipe, processor, "test")
            figures = {
                **measure(model.llava, processor, held_out),
                **measure_pairs(model.llava, model.step_head, processor, held_out),
            }
            _take_apart(model.llava, processor, partial, {"recipe": shaping, "held_out": figures})
            partial.rename(recipe.out)
        elif read_record(recipe.out)["recipe"] != shaping:
            raise RunRefused(f"{recipe.out}: is the foundation of another recipe")
    return recipe.out


def read_record(folder: Path) -> dict[str, Any]:
    """What ``foundation.json`` says: recipe, figures on held-out scenes, versions of packages."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
    return record


def new_model(recipe: FoundationRecipe) -> tuple[Any, Any]:
    """A LLaVA with random weights, and its processor."""
    spec = recipe.foundation
    texts = [text for row in scene_rows(spec.vocabulary_of) for text in _texts(row)]
    tokenizer = make_tokenizer(texts, spec.language.vocabulary)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return assemble(
            ModelSpec(
                architecture="llava",
                vision={
                    "model_type": "siglip_vision_model",
                    **_sizes(spec.vision),
                    "image_size": spec.vision.image_side_px,
                    "patch_size": spec.vision.patch_side_px,
                },
                language={
                    "model_type": "llama",
                    **_sizes(spec.language),
                    "head_dim": _HEAD_WIDTH,
                    "max_position_embeddings": spec.language.positions,
                    "tie_word_embeddings": True,
                },
                tokenizer=folder,
                seed=recipe.seed,
            )
        )


def _sizes(shape: Any) -> dict[str, int]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": 3 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // _HEAD_WIDTH,
    }


def _texts(row: Mapping[str, Any]) -> list[str]:
    questions = row["questions"] or []
    asked = [f"{q['question']} {q['answer']}" for q in questions]
    return [*(row[name] for name in _TEXT_COLUMNS if row[name]), *asked]


def _trained(recipe: FoundationRecipe, on_step: OnStep) -> tuple[FoundationModel, Any]:
    import torch

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    schedule = recipe.foundation.schedule
    llava, processor = new_model(recipe)
    samples = _samples(recipe, processor, "train")
    torch.manual_seed(recipe.seed)
    model = FoundationModel(llava, *samples.names.sizes(), schedule.patch_loss)
    collator = Collator(processor)
    done = 0
    for name, phase in (("tower", schedule.tower), ("joint", schedule.joint)):
        model.reads = name == "joint"
        before = done  # a closure would see it change

        def told(step: int, losses: Mapping[str, float], before: int = before) -> None:
            on_step(before + step, losses)

        own = samples.drawn(phase.steps * phase.batch, keyed_hash(recipe.seed, name))
        _run_phase(recipe, name, phase, model, own, collator, told)
        done += phase.steps
    return model, processor


def _samples(recipe: FoundationRecipe, processor: Any, config: str) -> Samples:
    spec = recipe.foundation
    grid = spec.vision.image_side_px // spec.vision.patch_side_px
    words = [w for w in words_of(processor.tokenizer) if w.strip() not in (*COLORS, *SHAPES)]
    return Samples(spec.scenes, spec.corpus / config, grid, words, config)


def _run_phase(
    recipe: FoundationRecipe,
    name: str,
    phase: Phase,
    model: FoundationModel,
    samples: Samples,
    collator: Collator,
    on_step: OnStep,
) -> None:
    """Trains one phase in a folder of its own, from its newest checkpoint where there is one."""
    import transformers

    schedule, folder = recipe.foundation.schedule, recipe.run / name

    class Told(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:  # not the summary at the end
                on_step(state.global_step, logs)

    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=phase.steps,
            per_device_train_batch_size=phase.batch,
            learning_rate=phase.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=schedule.warmup_steps,
            weight_decay=schedule.weight_decay,
            adam_beta2=0.98,
            seed=recipe.seed,
            use_cpu=True,
            train_sampling_strategy="sequential",
            save_steps=recipe.every_steps,
            save_total_limit=1,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            log_level="error",
        ),
        train_dataset=samples,
        data_collator=collator,
        callbacks=[Told()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    find: Any = transformers.trainer_utils.get_last_checkpoint
    newest = find(str(folder)) if folder.is_dir() else None
    # The last step leaves a checkpoint, too: from there nothing is trained, only loaded.
    trainer.train(resume_from_checkpoint=newest)


def _take_apart(llava: Any, processor: Any, folder: Path, record: Mapping[str, Any]) -> None:
    """Tower and language model as bfloat16 checkpoints; the projector is thrown away."""
    import torch
    import transformers

    llava = llava.to(torch.bfloat16)
    llava.model.vision_tower.save_pretrained(folder / "vision")
    processor.image_processor.save_pretrained(folder / "vision")
    auto: Any = transformers.AutoModelForCausalLM
    language = auto.from_config(llava.config.text_config)
    language = language.to(torch.bfloat16)
    language.model.load_state_dict(llava.model.language_model.state_dict())
    language.tie_weights()
    language.generation_config = llava.generation_config
    language.save_pretrained(folder / "language")
    processor.tokenizer.save_pretrained(folder / "language")
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    told = json.dumps({**record, "packages": packages}, indent=2)
    (folder / RECORD).write_text(told + "\n", encoding="utf-8")

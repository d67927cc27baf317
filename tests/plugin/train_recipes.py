"""Makes what the tests of training work on: a build with pictures, recipes of tiny stages; and a
loop without a trainer to compare with.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from making import do, make_corpus, write_recipe
from tiny_models import tiny_spec

SAMPLES = 24


def make_data(root: Path, samples: int = SAMPLES) -> Path:
    """A corpus and a build of it; returns the build."""
    make_corpus(root / "corpus", samples, shards=2)
    return do(write_recipe(root / "captions.yaml"))


def stage_content(build: Path, architecture: str = "llava", **blocks: Any) -> dict[str, Any]:
    """Content of a recipe for 8 sequences a step of a tiny model, beside the build's corpus."""
    root = build.parents[2]
    model = tiny_spec(root / "tiny", architecture).model_dump(exclude_none=True)
    source = {"build": str(build), "config": "conversations", "corpus": str(root / "corpus")}
    base = {
        "model": model,
        "feed": {"sources": [source], "context_tokens": 512},
        "trains": ["projector", "language"],
        "optimisation": {"learning_rate": 1e-3, "batch": 8, "warmup_ratio": 0.0},
        "hardware": {"device": "cpu", "micro_batch": 4, "threads": 1},
        "checkpoints": {"every_steps": 100},
        "out": str(root / "out"),
    }
    for name, values in blocks.items():
        held = base.get(name)
        base[name] = {**held, **values} if isinstance(held, dict) and name != "model" else values
    return base


def write_stage(file: Path, build: Path, architecture: str = "llava", **blocks: Any) -> Path:
    """Writes ``stage_content``; the run's folder is beside the file unless ``out`` is given."""
    blocks.setdefault("out", str(file.parent / "out"))
    content = stage_content(build, architecture, **blocks)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def train(file: Path, *overrides: str, on_row: Any = None) -> Any:
    """Trains a recipe in this process; returns its metrics, None where it is finished."""
    from vila2data.recipe import parse_recipe
    from vila2data.training.processes import started
    from vila2data.training.recipe import TrainRecipe
    from vila2data.training.run import opened

    recipe = parse_recipe(TrainRecipe, file, overrides)
    with started(recipe.hardware.device) as processes, opened(recipe, processes) as stage:
        if stage is None:
            return None
        return stage.train(on_row) if on_row else stage.train()


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The log of a run, without what depends on the machine."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def weights_of(folder: Path) -> dict[str, Any]:
    """The weights of a checkpoint, by name."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def reference(recipe: Any, plan: Any) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """One step after another of a plain loop: loss, and the weights after it by name.

    The whole batch at once; cross-entropy by hand; AdamW and the schedule of the papers.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from vila2data.training.architectures.assemble import load, parts_of
    from vila2data.training.feed.feed import Collator, Feed, Item
    from vila2data.training.feed.pictures import scaled

    rules = recipe.optimisation
    model, processor = load(recipe.model)
    model.train()
    parts = parts_of(model)
    trained = {n: p for part in recipe.trains for n, p in parts[part].items()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.AdamW(
        trained.values(), lr=rules.learning_rate, betas=rules.betas, eps=rules.epsilon,
        weight_decay=rules.weight_decay,
    )  # fmt: skip
    feed = Feed(plan)
    collator = Collator(processor, context_tokens=recipe.feed.context_tokens)
    steps = plan.items // rules.batch
    warm = math.ceil(steps * rules.warmup_ratio)
    for step in range(steps):
        positions = range(step * rules.batch, (step + 1) * rules.batch)
        items = [Item([sample]) for i in positions for sample in feed[i].samples]  # never packed
        batch = scaled(collator(items), collator.pictures.late_scale)
        batch.pop("feed_counts")
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1].float()
        summed = cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum"
        )
        loss = summed / max(1, int((labels != -100).sum()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), rules.max_grad_norm)
        along = max(0, step - warm) / max(1, steps - warm)
        share = step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * along))
        for group in optimizer.param_groups:
            group["lr"] = rules.learning_rate * share
        optimizer.step()
        yield loss.item(), {n: p.detach().clone() for n, p in model.named_parameters()}

"""The long commands: plan, progress, one summary table."""

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import registry
from .build.manifest import read_manifest
from .build.recipe import BuildRecipe
from .build.write import build_path, refuse_existing, write_build
from .console import progress, say, show_table
from .corpus.images import ImageLimits
from .corpus.pack import adopt, pack
from .corpus.read import list_shards, read_shard
from .corpus.sources import SourceOptions, has_shards, image_count, items_of
from .corpus.told import samples_told
from .errors import BadInput
from .recaption.calibrate import Calibration, calibrate
from .recaption.observe import Account
from .recaption.prometheus import served
from .recaption.run import WHOLE, Part, Plan, plan, run
from .recaption.spec import RecaptionSpec
from .recipe import load_recipe
from .serve.rules import server_commands
from .storage import Place

_SHOWN_REQUESTS = 3


def pack_command(
    source: str,
    out: Path,
    options: SourceOptions,
    *,
    samples_per_shard: int,
    limits: ImageLimits,
    dry_run: bool,
) -> bool:
    """Packs a folder, a data set or img2dataset's output; whether it holds a usable sample.

    Raises:
        BadInput: the source cannot be read.
    """
    if has_shards(Path(source)):
        if dry_run:
            say(
                f"{source} is a corpus as it is; would link {len(list_shards(Path(source)))} shards"
            )
            return True
        summary = adopt(Path(source), out)
    else:
        if dry_run:
            count = sum(1 for _ in items_of(source, options))
            shards = -(-count // samples_per_shard)
            say(f"would pack {count:,} samples into {shards:,} shards in {out}")
            return True
        total = image_count(Path(source))
        with progress("packing", total=total, unit="images") as done:
            summary = pack(
                items_of(source, options),
                out,
                samples_per_shard=samples_per_shard,
                limits=limits,
                on_item=lambda: done(1),
            )
    counts = [("read", summary.read), ("written", summary.written), *summary.rejected.items()]
    show_table(["samples", "count"], counts, title=f"{out}: {summary.shards} shards")
    return summary.written > 0 or summary.read == 0


def recaption_command(
    name: str,
    overrides: Sequence[str],
    *,
    part: Part,
    dry_run: bool,
    calibration: Calibration | None = None,
    metrics_port: int | None = None,
) -> None:
    """Runs the ``recaption:`` block of a recipe, or a part of it.

    Raises:
        BadInput: the recipe has none.
    """
    recipe: Any = load_recipe(name, overrides)
    spec = _recaption_of(name, recipe)
    planned = plan(spec, recipe.corpus, seed=recipe.seed, part=part)
    if dry_run:
        if calibration is None or not calibration.as_json:
            _show_plan(planned, spec, recipe.seed)
        if calibration is not None:
            quiet_libraries()
            calibrate(_sizes_of(planned.todo), spec, calibration, seed=recipe.seed)
        return
    quiet_libraries()
    total = samples_in(planned.todo)
    account = Account()
    metrics = (
        nullcontext()
        if metrics_port is None
        else served(account, port=metrics_port, config=spec.config)
    )
    began_s = time.monotonic()
    with metrics, progress(spec.config, total=total, unit=None, live=account.told) as done:
        counts = run(
            spec, recipe.corpus, seed=recipe.seed, on_sample=done, account=account, part=part
        )
    duration_s = time.monotonic() - began_s
    finished_before = sum(found.read for found in planned.finished.values())
    asked = counts.read - finished_before
    rate = asked / duration_s if duration_s > 0 else 0.0
    reasons = [(f"rejected: {reason}", count) for reason, count in counts.rejected.items()]
    show_table(
        ["samples", "count"],
        [
            ("read", counts.read),
            ("of these in earlier runs", finished_before),
            ("kept", counts.written),
            *reasons,
            ("not sampled", counts.not_sampled),
        ],
        title=f"{spec.config} in {spec.run}: {duration_s:.1f} s, {rate:,.1f} images/s",
    )
    if part != WHOLE:
        whole = plan(spec, recipe.corpus, seed=recipe.seed)
        say(f"{len(whole.finished)} of the run's {len(whole.shards)} shards are finished")
        if whole.todo:
            return
    say(f"next: {_command_line('build', name, overrides)}")


def _recaption_of(name: str, recipe: Any) -> RecaptionSpec:
    spec: RecaptionSpec | None = getattr(recipe, "recaption", None)
    if spec is None:
        raise BadInput(
            f"{name}: has no block 'recaption:'; see the shipped recipe coyo_recap/round1"
        )
    return spec


def _command_line(command: str, name: str, overrides: Sequence[str]) -> str:
    """A command with the same recipe and overrides, as a shell takes it."""
    settings = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["vila2data", command, name, *settings])


def serve_command(name: str, overrides: Sequence[str], *, logs: Path, dry_run: bool) -> None:
    """Starts the servers of a recipe's engine ``openai`` and keeps them up.

    Raises:
        BadInput: the recipe's engine is another, or has no block ``serve``.
        RunFailed: a server could not be started.
    """
    from .serve.processes import serve  # has signals that POSIX alone knows

    engine: Any = _recaption_of(name, load_recipe(name, overrides)).engine
    rules = getattr(engine, "serve", None)
    if rules is None:
        raise BadInput(
            f"{name}: its engine is '{engine.name}' without a block 'serve:'; see the shipped "
            "recipe coyo_recap/round2_servers"
        )
    commands = server_commands(rules, engine.base_url, engine.model, os.environ)
    if dry_run:
        for command in commands:
            say(command.shown())
        return

    def tell(line: str) -> None:
        say(line)
        sys.stdout.flush()  # who waits for it may read a pipe

    recaption = _command_line("recaption", name, overrides)
    serve(commands, rules, logs=logs, tell=tell, ready=lambda: tell(f"next: {recaption}"))


def quiet_libraries() -> None:
    """Turns the bars of `datasets` and transformers off: they would write over ours."""
    import datasets

    datasets.disable_progress_bars()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if find_spec("transformers") is not None:
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def samples_in(shards: Sequence[Place]) -> int | None:
    """Samples by the shards' own statistics, None where one has none."""
    total = 0
    for told in samples_told(shards):
        if told is None:
            return None
        total += told
    return total


def _sizes_of(shards: Sequence[Place]) -> dict[Place, int]:
    """Samples of each shard; one that does not tell is read through."""
    return {
        shard: sum(1 for _ in read_shard(shard)) if told is None else told
        for shard, told in zip(shards, samples_told(shards), strict=True)
    }


def _show_plan(planned: Plan, spec: RecaptionSpec, seed: int) -> None:
    samples = samples_in(planned.shards)
    rows = [
        ("config", spec.config),
        ("engine", json.dumps(spec.engine.shaping())),
        ("prompts", ", ".join(f"{name} × {weight:g}" for name, weight in spec.prompts.items())),
        ("shards", f"{len(planned.shards)}, of which {len(planned.finished)} are finished"),
        ("samples", "not known" if samples is None else samples),
        ("run", str(planned.ledger)),
        ("fingerprint", planned.fingerprint),
    ]
    show_table(["plan", ""], rows)
    requests = []
    for sample in read_shard(planned.shards[0], limits=spec.limits.reading()):
        prompt = spec.prompt_for(sample.key, seed=seed)
        sampling = spec.sampling_for(sample.key, seed=seed, attempt=0)
        requests.append((sample.key, prompt.id, str(sampling.seed), prompt.text))
        if len(requests) == _SHOWN_REQUESTS:
            break
    show_table(["key", "prompt", "seed", "text"], requests, title="First requests")


def build_command(name: str, overrides: Sequence[str], *, dry_run: bool) -> None:
    """Makes the build of a recipe.

    Raises:
        BuildError: the version exists.
    """
    recipe: BuildRecipe = load_recipe(name, overrides)
    builder = registry.load("builders", recipe.builder)
    target = build_path(recipe, builder.DATA_SET)
    refuse_existing(target)
    if dry_run:
        show_table(["plan", ""], [(k, str(v)) for k, v in recipe.model_dump(mode="json").items()])
        say(f"would write {target}")
        return
    quiet_libraries()
    with progress("building", total=None, unit="rows") as done:
        write_build(builder, recipe, on_rows=done)
    show_build(target)
    say(f'load it: load_dataset("{target.as_posix()}", split="train")')


def show_build(target: Path) -> None:
    """The summary of a build: its configs, and where the rows went."""
    manifest = read_manifest(target)
    sizes = [
        (c, manifest.rows_of(c), sum(f.bytes for f in manifest.files_of(c)))
        for c in manifest.configs
    ]
    show_table(["config", "rows", "bytes"], sizes, title=str(target))
    steps = [
        (s.step, s.read, s.written, sum(s.rejected.values()), s.not_sampled)
        for s in manifest.funnel
    ]
    columns = ["step", "read", "written", "rejected", "not sampled"]
    show_table(columns, steps, title="Where the rows went")

"""``recaption --dry-run --calibrate``: measures a little, and shows what a run would take."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vila2data.console import progress, say, show_json, show_table
from vila2data.doctor import device
from vila2data.engines import EngineConfig
from vila2data.engines.checkpoint import CheckpointConfig
from vila2data.errors import BadInput
from vila2data.storage import Place

from .crew import start_engine
from .estimate import Estimate, estimate, images_to_caption, pick
from .spec import RecaptionSpec


@dataclass(frozen=True, slots=True)
class Calibration:
    """What ``--dry-run --calibrate`` is asked.

    Args:
        images: to caption for the estimate.
        devices: that would share the run.
        price_per_hour: of one device.
        as_json: in place of a table.
    """

    images: int
    devices: int = 1
    price_per_hour: float | None = None
    as_json: bool = False


def calibrate(
    sizes: Mapping[Place, int], spec: RecaptionSpec, asked: Calibration, *, seed: int
) -> None:
    """Shows what a run over shards would take; stores nothing.

    Args:
        sizes: samples of each shard that is to be done.
        spec: the recipe's block.
        asked: how.
        seed: of the data set.

    Raises:
        BadInput: there are no shards.
    """
    if not sizes:
        raise BadInput(f"{spec.run}: every shard is finished; there is nothing to estimate")
    samples = pick(sizes, spec, asked.images, seed=seed)
    began_s = time.monotonic()
    engine = start_engine(spec)
    start_s = time.monotonic() - began_s
    try:
        with progress("calibrating", total=sum(map(len, samples)), unit="images") as done:
            images = images_to_caption(sum(sizes.values()), spec)
            found = estimate(samples, spec, engine, images=images, seed=seed, on_sample=done)
    finally:
        engine.close()
    where = _where(spec.engine)
    if asked.as_json:
        show_json(_estimate_as_json(found, asked) | {"device": where, "engine_start_s": start_s})
    else:
        _show_estimate(found, asked, where=where, start_s=start_s)


def _where(engine: EngineConfig) -> str:
    """The device, or what stands for it: a server does not tell its own."""
    if not isinstance(engine, CheckpointConfig):
        return f"engine {engine.name}"
    given = getattr(engine, "device", "auto")
    return device()[0] if given == "auto" else str(given)


def _estimate_as_json(found: Estimate, asked: Calibration) -> dict[str, Any]:
    price = asked.price_per_hour
    return asdict(found) | {
        "images_per_s": found.images_per_s,
        "tokens": found.tokens,
        "relative_error": found.relative_error,
        "is_lower_bound": found.is_lower_bound,
        "device_hours": found.hours,
        "devices": asked.devices,
        "hours": found.hours / asked.devices,
        "cost": None if price is None else found.hours * price,
    }


def _show_estimate(found: Estimate, asked: Calibration, *, where: str, start_s: float) -> None:
    def give_or_take(value: float) -> str:
        error = found.relative_error
        return f"{value:,.3g}" + ("" if error is None else f" ± {value * error:.2g}")

    per_image, p95 = found.tokens_per_image, found.tokens_per_image_p95
    is_told = per_image is not None and p95 is not None
    rows = [
        ("images to caption", f"{found.images:,}"),
        ("measured on", f"{found.timed:,} images after a warm-up of {found.sampled - found.timed}"),
        (
            "output tokens per image",
            f"mean {per_image:,.1f}, p95 {p95:,.1f}" if is_told else "not told by the engine",
        ),
        ("output tokens", None if found.tokens is None else f"{found.tokens:,.0f}"),
        ("rejected at the first answer", f"{found.rejected_share:.1%}"),
        ("answers per image, with retries", f"{found.answers_per_image:.3f}"),
        ("images/s", give_or_take(found.images_per_s)),
        ("start of the engine", f"{start_s:.1f} s"),
        (f"hours on {where}", give_or_take(found.hours)),
    ]
    if asked.devices > 1:
        rows.append(
            (f"hours on {asked.devices} of them", give_or_take(found.hours / asked.devices))
        )
    if asked.price_per_hour is not None:
        cost = give_or_take(found.hours * asked.price_per_hour)
        rows.append((f"cost at {asked.price_per_hour:g} an hour", cost))
    show_table(["estimate", ""], rows)
    say(
        f"extrapolated from {found.sampled:,} images of {found.shards:,} shards; ± is the standard "
        "error of the rate, and says nothing of images unlike these, other loads or more devices"
    )
    if found.is_lower_bound:
        say(
            f"the engine takes {found.concurrency:,} requests at a time: these were too few to "
            "fill it, and a run is faster"
        )

"""The plan of a run: every sample in the order of training, made before the first step.

    plan/
      plan.json       counts, sources, fingerprint
      samples.arrow   tokenised samples in order, and where their images lie
      items.bin       int64: where each sequence starts among the samples, and one more

What cannot be trained on is known, counted and told before anything is trained; the number of steps
is exact; to resume is to start at a position; and memory does not grow with the number of rows.

Light to import: the processes that read images start here. ``planning`` makes plans.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2data.build.manifest import FunnelStep
from vila2data.corpus.identity import corpus_source
from vila2data.errors import RunRefused

from .images import CorpusStore, ImageStore, RowStore

SAMPLES_FILE = "samples.arrow"
ITEMS_FILE = "items.bin"

PLAN_VERSION = 1
"""Counts changes to how samples are made; part of every plan."""


@dataclass(frozen=True)
class Plan:
    """What is trained on.

    Attributes:
        folder: of its files.
        fingerprint: hash of the samples and their order.
        items: sequences; a multiple of the global batch.
        samples: all that are trained on, copies counted.
        tokens: of them, image tokens among them.
        trained_tokens: those with a loss.
        images: of them.
        funnel: of each source, rows read, kept, rejected by reason, and not sampled.
        sources: what a manifest says of them.
        stores: what ``open_store`` needs for each source.
    """

    folder: Path
    fingerprint: str
    items: int
    samples: int
    tokens: int
    trained_tokens: int
    images: int
    funnel: list[FunnelStep]
    sources: list[Mapping[str, Any]]
    stores: list[Mapping[str, str]]

    def open_store(self, source: int) -> ImageStore:
        """The images of a source.

        Raises:
            CorpusError: its corpus is gone.
        """
        told = self.stores[source]
        if told["kind"] == "corpus":
            return CorpusStore(Path(told["path"]))
        return RowStore(Path(told["path"]), told["config"], told["split"])


def load_plan(folder: Path) -> Plan:
    """A plan that was made.

    Raises:
        RunRefused: there is none, another version of the package made it, or a corpus is not what
            it was.
        CorpusError: a corpus is gone.
    """
    file = folder / "plan.json"
    if not file.is_file():
        raise RunRefused(f"{folder}: holds no plan of a training run")
    content = json.loads(file.read_text(encoding="utf-8"))
    if content.pop("plan_version") != PLAN_VERSION:
        raise RunRefused(f"{folder}: was made by another version; begin the run in another folder")
    funnel = [FunnelStep(**step) for step in content.pop("funnel")]
    plan = Plan(folder=folder, funnel=funnel, **content)
    for store, told in zip(plan.stores, plan.sources, strict=True):
        path = Path(store["path"])
        if store["kind"] == "corpus" and corpus_source(path)["fingerprint"] != told["fingerprint"]:
            raise RunRefused(f"{path}: is not the corpus that {folder} was made of any more")
    return plan

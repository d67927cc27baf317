"""Corpora and engines for benchmarks."""

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap, CoyoRecapRecipe
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.engines import Author, Request, Result
from vila2data.recaption.run import run

SIDE_PX = 192


class InstantEngine:
    """Writes a different caption of about 110 words for each key, at once."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlucmfw"))
        self.words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(3000)]
        # Frequencies by Zipf's law; a draw is read off their cumulative sum.
        self.cumulative = np.cumsum(1 / np.arange(1, 3001))
        self.author = Author("instant", None, "instant 1")

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        for request in requests:
            rng = np.random.default_rng(request.sampling.seed)
            points = rng.random(110) * self.cumulative[-1]
            chosen = np.searchsorted(self.cumulative, points)
            text = " ".join(self.words[n] for n in chosen) + "."
            yield Result(request.index, text, "stop", self.author, 140)

    def close(self) -> None:
        pass


def make_corpus(
    folder: Path, *, images: int, shards: int, size_px: tuple[int, int] = (SIDE_PX, SIDE_PX)
) -> Path:
    """A corpus of different JPEG images, of about 9 KB where they have the usual size."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)

    def load(number: int) -> bytes:
        noise = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        small = Image.fromarray(base // 2 + noise // 2)
        buffer = io.BytesIO()
        small.resize(size_px, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    items = (
        SourceItem(f"{n:09d}", lambda n=n: load(n), f"alt text {n}".encode(), {"id": n})
        for n in range(images)
    )
    pack(items, folder, samples_per_shard=-(-images // shards))
    return folder


def recipe(corpus: Path, folder: Path, engine: dict[str, object], name: str) -> CoyoRecapRecipe:
    """A recipe of round 1."""
    return CoyoRecapRecipe.model_validate(
        {
            "builder": "coyo-recap",
            "version": "1.0.0",
            "corpus": corpus,
            "out": folder / "builds",
            "recaption": {"run": folder / name, "round": 1, "engine": engine},
        }
    )


def make_build(corpus: Path, folder: Path) -> Path:
    """A build of round 1 over the corpus, by the instant engine."""
    engine = {"name": "openai", "base_url": "http://localhost:1", "model": "never asked"}
    made = recipe(corpus, folder, engine, "run")
    assert made.recaption is not None
    run(made.recaption, corpus, seed=0, engine=InstantEngine())
    return write_build(CoyoRecap, made)


def replay_recipe(corpus: Path, build: Path) -> CoyoRecapRecipe:
    """A recipe that replays a build into a new folder."""
    folder = Path(tempfile.mkdtemp(dir=build.parent))
    return recipe(corpus, folder, {"name": "replay", "build": build}, "run")

"""What recaptioning costs beside the model: the replay engine against reading the same tars."""

import tarfile
import tempfile
from pathlib import Path

import webdataset

from vila2data.corpus.read import list_shards, read_shard
from vila2data.recaption.run import run

from .corpora import make_build, make_corpus, replay_recipe
from .timing import seconds_in_turn, show

IMAGES = 32_000
SHARDS = 8
ROUNDS = 3


def _tarfile_alone(corpus: Path) -> None:
    for shard in list_shards(corpus):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                file.read()


def _webdataset(corpus: Path) -> None:
    shards = [str(shard) for shard in list_shards(corpus)]
    for _ in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        pass


def _reader(corpus: Path) -> None:
    for shard in list_shards(corpus):
        for _ in read_shard(shard):
            pass


def _replay(corpus: Path, build: Path, workers: int) -> None:
    spec = replay_recipe(corpus, build).recaption
    assert spec is not None
    executor = spec.executor.model_copy(update={"workers": workers})
    counts = run(spec.model_copy(update={"executor": executor}), corpus, seed=0)
    assert counts.read == IMAGES
    assert counts.rejected == {}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "corpus", images=IMAGES, shards=SHARDS)
        build = make_build(corpus, Path(folder))
        seconds = seconds_in_turn(
            {
                "tarfile alone": lambda: _tarfile_alone(corpus),
                "webdataset, not decoded": lambda: _webdataset(corpus),
                "read_shard": lambda: _reader(corpus),
                "recaption by replay, 1 worker": lambda: _replay(corpus, build, 1),
                "recaption by replay, 2 workers": lambda: _replay(corpus, build, 2),
            },
            rounds=ROUNDS,
        )
        size = sum(shard.stat().st_size for shard in list_shards(corpus)) / IMAGES
    title = (
        f"Recaptioning {IMAGES:,} images in {SHARDS} tars, {size / 1024:.1f} KiB of tar an image"
    )
    show(title, IMAGES, "images", seconds, against="webdataset, not decoded")

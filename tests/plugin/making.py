"""Makes what the tests work on: pictures, corpora, recipes, builds."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from vila2data import registry
from vila2data.build.write import write_build
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.engines import Captioner
from vila2data.keyed import keyed_hash
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe


def make_picture(number: int, *, exif_orientation: int | None = None) -> bytes:
    """A picture that differs from number to number in size and pixels: JPEG, PNG, WebP in turn."""
    width, height = 24 + number * 7 % 40, 20 + number * 11 % 50
    noise = hashlib.shake_256(str(number).encode()).digest(width * height * 3)
    picture = Image.frombytes("RGB", (width, height), noise)
    buffer = io.BytesIO()
    if exif_orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = exif_orientation
        picture.save(buffer, "JPEG", exif=exif)
    else:
        picture.save(buffer, ("JPEG", "PNG", "WEBP")[number % 3], lossless=True)
    return buffer.getvalue()


def sample_items(count: int) -> Iterator[SourceItem]:
    """Samples to pack, with COYO ids and URLs; every seventh has no text, every fifth lies on its
    side.
    """
    for number in range(count):
        image = make_picture(number, exif_orientation=6 if number % 5 == 4 else None)
        text = b"" if number % 7 == 6 else f"alt text {keyed_hash(number) % 1000} of it".encode()
        metadata = {"id": 10**12 + number, "url": f"https://example.org/{number}"}
        yield SourceItem(f"{number:05d}", lambda image=image: image, text, metadata)


def make_corpus(folder: Path, count: int = 12, *, shards: int = 1) -> Path:
    """Packs ``count`` samples into ``shards`` tars."""
    pack(sample_items(count), folder, samples_per_shard=-(-count // shards))
    return folder


def recipe_content(root: Path, **blocks: Any) -> dict[str, Any]:
    """A recipe of one round by the engine `fake`; ``recaption`` is merged, the rest replaced."""
    recaption = {
        "run": str(root / "runs" / "round1"),
        "round": 1,
        "engine": {"name": "fake"},
        "sampling": {"temperature": 0.7, "max_tokens": 64},
        **blocks.pop("recaption", {}),
    }
    base = {"builder": "coyo-recap", "version": "1.0.0", "license": "cc0-1.0"}
    places = {"corpus": str(root / "corpus"), "out": str(root / "builds")}
    return {**base, **places, **blocks, "recaption": recaption}


def write_recipe(file: Path, **blocks: Any) -> Path:
    """Writes ``recipe_content`` whose folders lie beside ``file``."""
    content = recipe_content(file.parent, **blocks)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def do(
    recipe_file: Path, overrides: Sequence[str] = (), *, engine: Captioner | None = None
) -> Path:
    """Runs and builds a recipe in this process; returns the build."""
    recipe = load_recipe(recipe_file, overrides)
    run(recipe.recaption, recipe.corpus, seed=recipe.seed, engine=engine)
    return write_build(registry.load("builders", recipe.builder), recipe)


def parquet_hashes(build: Path) -> dict[str, str]:
    """Hash of every parquet file of a build, by its path in it."""
    return {
        file.relative_to(build).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(build.rglob("*.parquet"))
    }

"""Copies: search among hashes, what hashing and looking cost, and which planted copies are found.

``python -m benchmarks.overlap --pictures FOLDER`` plants copies of the pictures below a folder
beside those that are drawn.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.plugin.overlap_making import (
    ALTERED,
    LIMITS,
    chart,
    cropped,
    jpeg,
    page,
    photo,
    png,
    signed,
)
from vila2data.corpus.images import decode
from vila2data.corpus.phash import phash
from vila2data.overlap.alignment import FULL_PX, similarity
from vila2data.overlap.find import PairRules, find_pairs
from vila2data.overlap.near import Hashes, near_pairs
from vila2data.overlap.signature import grey_picture, image_signature

from .peaks import watched
from .timing import seconds_in_turn

HASHES = 1_000_000
PLANTED = 1_000
SAME = 5_000
DISTANCES = (4, 6, 8)
BRUTE_HASHES = 200
DRAWN = 20
ROUNDS = 3
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def hashes(count: int, distance: int) -> tuple[Hashes, Hashes]:
    """Two collections that share near hashes, and one hash that thousands of both have."""
    draw = np.random.default_rng(distance)
    left, right = draw.integers(0, 2**64, (2, count), dtype=np.uint64)
    bits = np.stack([draw.choice(64, distance, replace=False) for _ in range(PLANTED)])
    flips = np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), axis=1)
    right[:PLANTED] = left[:PLANTED] ^ flips
    left[-SAME:] = right[-SAME:] = left[-1]
    return left, right


def search(count: int, distance: int) -> None:
    """Prints seconds, pairs, and planted pairs that were found."""
    left, right = hashes(count, distance)
    began_s = time.perf_counter()
    pairs, _ = near_pairs(left, right, distance)
    seconds = time.perf_counter() - began_s
    planted = int(((pairs[:, 0] == pairs[:, 1]) & (pairs[:, 0] < PLANTED)).sum())
    print(seconds, len(pairs), planted)


def brute_seconds(count: int, distance: int) -> float:
    """What comparing every pair would take, by the rate of a few hashes against all."""
    left, right = hashes(count, distance)
    few = left[:BRUTE_HASHES]
    began_s = time.perf_counter()
    for one in few:
        np.flatnonzero(np.bitwise_count(right ^ one) <= distance)
    return (time.perf_counter() - began_s) * count / BRUTE_HASHES


def measure_search(count: int) -> None:
    print(f"\n### Near pairs of {count:,} × {count:,} hashes, one thread\n")
    print("| bits | seconds | pairs | planted found | peak, MiB | every pair compared, s | ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for distance in DISTANCES:
        found = watched("-m", "benchmarks.overlap", "--search", str(count), str(distance))
        seconds, pairs, planted = map(float, found.printed.split())
        brute_s = brute_seconds(count, distance)
        print(
            f"| {distance} | {seconds:.1f} | {pairs:,.0f} | {planted:,.0f} of {PLANTED:,} "
            f"| {found.driver_mib:,.0f} | {brute_s:,.0f} | {brute_s / seconds:,.0f} |",
            flush=True,
        )


def measure_images() -> None:
    """Milliseconds for an image, of photos as JPEG and pages as PNG."""
    print("\n### Milliseconds for an image\n")
    print("| | JPEG, 640 × 480 | PNG, 680 × 880 |\n|---|---:|---:|")
    kinds = [[jpeg(photo(n, 640, 480)) for n in range(16)], [png(page(n)) for n in range(16)]]
    ways: dict[str, Callable[[bytes], object]] = {
        "decoded": lambda content: decode(content, LIMITS),
        "decoded, hash by ImageHash": lambda content: phash(decode(content, LIMITS)),
        "signature by bytes alone": lambda content: image_signature(content, LIMITS, near=False),
        "signature": lambda content: image_signature(content, LIMITS),
        "signature with views": lambda content: image_signature(content, LIMITS, views=True),
    }
    columns = [_milliseconds(ways, contents) for contents in kinds]
    for name in ways:
        print(f"| {name} | {columns[0][name]:.1f} | {columns[1][name]:.1f} |")
    compared = [_compared(contents) for contents in kinds]
    for name in compared[0]:
        print(f"| {name} | {compared[0][name]:.1f} | {compared[1][name]:.1f} |")


def _milliseconds(
    ways: dict[str, Callable[[bytes], object]], contents: Sequence[bytes]
) -> dict[str, float]:
    def each(way: Callable[[bytes], object]) -> Callable[[], object]:
        return lambda: [way(content) for content in contents]

    seconds = seconds_in_turn({name: each(way) for name, way in ways.items()}, rounds=ROUNDS)
    return {name: found / len(contents) * 1e3 for name, found in seconds.items()}


def _compared(contents: Sequence[bytes]) -> dict[str, float]:
    opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    crops = [jpeg(cropped(picture, 0.05, 0.05, 0.05, 0.05)) for picture in opened]
    greys = [[_grey(c) for c in some] for some in (contents, map(jpeg, opened), crops)]
    pairs = {
        "look at a copy": list(zip(greys[0], greys[1], strict=True)),
        "look at a cropped copy": list(zip(greys[0], greys[2], strict=True)),
        "look at another picture": list(zip(greys[0], greys[0][1:], strict=False)),
    }

    def each(some: list[tuple[Image.Image, Image.Image]]) -> Callable[[], object]:
        return lambda: [similarity(*pair) for pair in some]

    seconds = seconds_in_turn({name: each(some) for name, some in pairs.items()}, rounds=1)
    return {name: found / len(pairs[name]) * 1e3 for name, found in seconds.items()}


def _grey(content: bytes) -> Image.Image:
    return grey_picture(content, LIMITS, at_least_px=FULL_PX)


def measure_planted(title: str, pictures: Sequence[Image.Image]) -> None:
    """Copies of every other picture against these; the rest of them stand beside the copies."""
    print(f"\n### Planted copies: {title}, {len(pictures)} pictures\n")
    print("| copy | planted | found | wrong | recall | precision | least likeness |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    known = {str(n): png(p) for n, p in enumerate(pictures) if n % 2 == 0}
    others = {str(n): png(p) for n, p in enumerate(pictures) if n % 2}
    right, theirs = signed(known, views=True)
    for way, alter in ALTERED.items():
        left, ours = signed({n: alter(pictures[int(n)]) for n in known} | others)
        pairs = find_pairs(
            left, right, rules=PairRules(), left_images=ours, right_images=theirs
        ).to_pylist()
        true = [pair for pair in pairs if pair["left_id"] == pair["right_id"]]
        wrong = len(pairs) - len(true)
        least = min((pair["score"] for pair in true), default=0)
        print(
            f"| {way} | {len(known)} | {len(true)} | {wrong} | {len(true) / len(known):.3f} "
            f"| {len(true) / max(len(pairs), 1):.3f} | {least:.2f} |",
            flush=True,
        )


def main(count: int = HASHES, folders: Sequence[Path] = ()) -> None:
    measure_search(count)
    measure_images()
    drawn = {
        "drawn photos": [photo(n, 640, 480) for n in range(DRAWN)],
        "drawn pages of text": [page(n) for n in range(DRAWN)],
        "drawn pages, one line of 40 differs": [
            page(n // 2, other_line=n if n % 2 else None) for n in range(DRAWN)
        ],
        "drawn charts": [chart(n) for n in range(DRAWN)],
    }
    for title, pictures in drawn.items():
        measure_planted(title, pictures)
    for folder in folders:
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
        measure_planted(folder.name, [Image.open(f).convert("RGB") for f in files])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hashes", type=int, default=HASHES)
    parser.add_argument("--pictures", type=Path, nargs="*", default=[])
    parser.add_argument("--search", type=int, nargs=2)
    asked = parser.parse_args()
    if asked.search:
        search(*asked.search)
    else:
        main(asked.hashes, asked.pictures)

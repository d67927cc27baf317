"""Perceptual hashes: the layout of COYO's, near for copies, far for other photos."""

import hashlib
import io
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vila2data.corpus.images import ImageLimits, decode
from vila2data.corpus.phash import phash
from vila2data.errors import MissingExtra


def noise(number: int) -> Image.Image:
    return Image.frombytes("RGB", (64, 48), hashlib.shake_256(bytes([number])).digest(64 * 48 * 3))


def by_definition(picture: Image.Image) -> int:
    grey = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    frequency, position = np.mgrid[:8, :32]
    waves = np.cos(np.pi * frequency * (2 * position + 1) / 64)
    low = waves @ np.asarray(grey, np.float64) @ waves.T  # (8, 8), vertical first
    bits = (low > np.median(low)).ravel()
    return int("".join("01"[int(bit)] for bit in bits), 2)


def bits_apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def copy_of(picture: Image.Image, short_side_px: int, quality: int) -> Image.Image:
    scale = short_side_px / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    buffer = io.BytesIO()
    picture.resize(size).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_the_first_bit_is_the_mean_and_the_others_follow_row_by_row() -> None:
    pictures = [noise(number) for number in range(8)]
    assert [phash(p) for p in pictures] == [by_definition(p) for p in pictures]
    assert len({phash(p) for p in pictures}) == 8


def test_a_plain_picture_has_no_frequency_but_its_mean() -> None:
    assert phash(Image.new("RGB", (50, 40), "black")) == 0
    assert phash(Image.new("RGB", (50, 40), "white")) == 1 << 63


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(MissingExtra, match=r"imagehash is not installed.*'vila2data\[phash\]'"):
        phash(noise(0))


@pytest.mark.shared
def test_coyo_s_hashes_have_the_form_of_ours(shared_data: Path) -> None:
    lines = (shared_data / "coyo" / "coyo_rows.jsonl").read_text("utf-8").splitlines()
    published = [int(json.loads(line)["image_phash"], 16) for line in lines]
    photos = sorted((shared_data / "captions" / "coco" / "images").glob("*.jpg"))[:4]
    ours = [phash(decode(photo.read_bytes(), ImageLimits())) for photo in photos]
    assert len(published) == len(ours) == 4
    # Half of the bits, since they are compared with their median; the mean is always above it.
    assert {value.bit_count() for value in published + ours} == {32}
    assert {value >> 63 for value in published + ours} == {1}


@pytest.mark.shared
def test_copies_of_a_photo_are_near_and_other_photos_far(shared_data: Path) -> None:
    photos = sorted((shared_data / "captions" / "coco" / "images").glob("*.jpg"))
    pictures = [decode(photo.read_bytes(), ImageLimits()) for photo in photos]
    hashes = [phash(picture) for picture in pictures]
    copies = [phash(copy_of(picture, 128, 50)) for picture in pictures]
    assert len(hashes) == 40
    assert max(map(bits_apart, hashes, copies)) <= 4
    assert min(bits_apart(one, other) for one, other in combinations(hashes, 2)) >= 20

import io

import imagehash
import numpy as np
import pytest
from overlap_making import ALTERED, LIMITS, chart, cropped, jpeg, page, photo, png, resized
from PIL import Image

from vila2data.corpus.images import ImageLimits, ImageRefused
from vila2data.corpus.phash import phash
from vila2data.overlap.alignment import similarity
from vila2data.overlap.signature import grey_picture, image_signature


def grey(content):
    return grey_picture(content, LIMITS, at_least_px=512)


def bits(one, other):
    return (one ^ other).bit_count()


@pytest.mark.parametrize("encode", [jpeg, png])
@pytest.mark.parametrize("picture", [photo(1, 640, 480), photo(2, 100, 90), page(1), chart(1)])
def test_the_hash_is_that_of_the_corpus(picture, encode):
    content = encode(picture)
    signed = image_signature(content, LIMITS)
    assert bits(signed.phash, phash(Image.open(io.BytesIO(content)).convert("RGB"))) <= 4
    assert signed.views == ()
    assert image_signature(content, LIMITS, near=False).phash is None
    assert image_signature(content, LIMITS, near=False).sha256 == signed.sha256


def test_a_picture_that_is_hashed_as_it_is_has_the_librarys_hash():
    picture = photo(3, 200, 150).convert("L")
    assert image_signature(png(picture), LIMITS).phash == int(str(imagehash.phash(picture)), 16)


def test_a_lying_jpeg_has_the_hash_of_the_upright_picture():
    picture = photo(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    assert (
        bits(
            image_signature(buffer.getvalue(), LIMITS).phash,
            image_signature(jpeg(picture), LIMITS).phash,
        )
        <= 2
    )


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_without_content_has_no_hash(level):
    signed = image_signature(png(Image.new("RGB", (90, 60), (level,) * 3)), LIMITS, views=True)
    assert (signed.phash, signed.views) == (None, ())


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (33, 2)])
def test_pictures_of_any_shape_are_signed_and_compared(size):
    picture = photo(5, *size)
    image_signature(png(picture), LIMITS, views=True)
    assert 0 <= similarity(picture.convert("L"), photo(6).convert("L")) <= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image_empty"),
        (b"no image", "image_undecodable"),
        (jpeg(photo(1))[:-2000], "image_undecodable"),
        (png(photo(1))[:-2000], "image_undecodable"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_refused_with_its_reason(content, reason):
    with pytest.raises(ImageRefused, match=reason):
        image_signature(content, LIMITS)


def test_an_image_beyond_the_limits_is_refused():
    with pytest.raises(ImageRefused, match="image_too_many_pixels"):
        image_signature(jpeg(photo(1)), ImageLimits(max_pixels=1000))


@pytest.mark.parametrize("way", ALTERED)
@pytest.mark.parametrize("picture", [photo(7, 400, 300), chart(2)], ids=["photo", "chart"])
def test_a_copy_has_a_near_view_and_the_same_pixels(picture, way):
    original = image_signature(png(picture), LIMITS, views=True)
    copy = ALTERED[way](picture)
    found = image_signature(copy, LIMITS).phash
    assert min(bits(found, view) for view in (original.phash, *original.views)) <= 8
    assert similarity(grey(copy), grey(png(picture))) >= 0.75


def test_what_was_cropped_is_found_from_either_side():
    whole, crop = png(photo(5, 400, 300)), jpeg(cropped(photo(5, 400, 300), 0.05, 0.05, 0.05, 0.05))
    hashes = [image_signature(content, LIMITS).phash for content in (whole, crop)]
    assert bits(*hashes) > 8
    for content, other in ((whole, hashes[1]), (crop, hashes[0])):
        views = image_signature(content, LIMITS, views=True).views
        assert min(bits(other, view) for view in views) <= 8
    assert similarity(grey(whole), grey(crop)) >= 0.75
    assert similarity(grey(crop), grey(whole)) >= 0.75


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (photo(1), photo(2)),
        (photo(1), photo(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        (page(1), page(2)),
        (page(1), page(1, other_line=17)),
        (page(1, lines=3), page(1, lines=3, other_line=1)),
        (page(1, lines=1), page(2, lines=1)),
        (chart(1), chart(2)),
        (Image.new("RGB", (64, 64), "white"), page(1, lines=1)),
        (Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "white")),
    ],
    ids=[
        *("photos", "mirrored", "pages", "a line of 40", "a line of 3", "single lines", "charts"),
        *("blank and page", "both blank"),
    ],
)
def test_pictures_that_differ_are_told_apart(one, other):
    assert similarity(grey(png(one)), grey(jpeg(other))) < 0.7
    assert similarity(grey(png(other)), grey(jpeg(one))) < 0.7


def test_hashes_alone_do_not_tell_pages_apart():
    pages = page(1), page(1, other_line=17)
    hashes = [image_signature(png(picture), LIMITS).phash for picture in pages]
    assert bits(*hashes) <= 8


def test_a_small_copy_of_a_large_page_is_one():
    assert similarity(grey(png(page(3))), grey(png(resized(page(3), 0.25)))) >= 0.75


def test_the_likeness_of_a_picture_with_itself_is_1():
    assert similarity(grey(png(page(3))), grey(png(page(3)))) == pytest.approx(1)
    assert np.isclose(similarity(photo(1).convert("L"), photo(1).convert("L")), 1)

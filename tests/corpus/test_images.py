"""Images: bounded before decoding, upright, RGB."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from strangers import encoded, huge_png, jpeg, picture

from vila2data.corpus.images import (
    ImageLimits,
    ImageRefused,
    Problem,
    as_stored,
    decode,
    read_header,
)

LIMITS = ImageLimits()


def oriented(orientation: object, format: str = "JPEG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(3), format, exif=exif, **options)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_exif_orientation_is_applied_as_pil_does(orientation: int, format: str) -> None:
    data = oriented(orientation, format)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data, LIMITS)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    header = read_header(data, LIMITS)
    assert (header.width, header.height) == found.size
    assert header.upright == (orientation not in range(2, 9))


def test_orientation_told_by_xmp_is_applied_and_the_header_agrees() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(picture(), "JPEG", xmp=xmp)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    header = read_header(data, LIMITS)
    assert decode(data, LIMITS).size == expected.size == (header.width, header.height) == (12, 16)


def test_orientation_told_after_the_pixels_counts_neither_in_header_nor_in_picture() -> None:
    data = oriented(6, "PNG")
    start = data.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
    end = data.index(b"IEND") - 4
    moved = data[:start] + data[stop:end] + data[start:stop] + data[end:]
    header = read_header(moved, LIMITS)
    assert decode(moved, LIMITS).size == (header.width, header.height)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish"]
)
def test_broken_exif_is_no_broken_image(exif: bytes) -> None:
    data = encoded(picture(), "JPEG", exif=exif)
    assert read_header(data, LIMITS).upright
    assert decode(data, LIMITS).size == (16, 12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_is_none_is_ignored(orientation: object) -> None:
    header = read_header(oriented(orientation), LIMITS)
    assert (header.width, header.height, header.upright) == (16, 12, True)


def png16() -> bytes:
    ramp = np.linspace(0, 65535, 16 * 12).reshape(12, 16).astype(np.uint16)
    return encoded(Image.fromarray(ramp), "PNG")


MODES = {
    "grey": encoded(picture().convert("L"), "JPEG"),
    "cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "palette": encoded(picture().convert("P"), "PNG"),
    "palette with transparency": encoded(picture().convert("P"), "PNG", transparency=b"\0\x80\xff"),
    "one bit": encoded(picture().convert("1"), "PNG"),
    "grey and alpha": encoded(picture().convert("LA"), "PNG"),
    "alpha": encoded(picture().convert("RGBA"), "PNG"),
    "16 bit": png16(),
    "progressive": jpeg(progressive=True),
    "animated gif": encoded(picture(), "GIF", save_all=True, append_images=[picture(5)]),
    "animated webp": encoded(picture(), "WEBP", save_all=True, append_images=[picture(5)]),
    "lossless webp": encoded(picture(), "WEBP", lossless=True),
    "bmp": encoded(picture(), "BMP"),
    "mpo": encoded(picture(), "MPO", save_all=True, append_images=[picture(5)]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_image_becomes_rgb(name: str) -> None:
    found = decode(MODES[name], LIMITS)
    assert (found.mode, found.size) == ("RGB", (16, 12))
    assert found.getextrema()[0][0] < found.getextrema()[0][1]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_decoded_picture_tells_no_orientation_that_would_turn_it_again(orientation: int) -> None:
    upright = decode(oriented(orientation), LIMITS)
    again = ImageOps.exif_transpose(upright)
    assert again.size == upright.size
    assert again.tobytes() == upright.tobytes()


def test_first_frame_of_an_animation_is_the_picture() -> None:
    first = decode(encoded(picture(), "GIF"), LIMITS)
    assert np.array_equal(np.asarray(decode(MODES["animated gif"], LIMITS)), np.asarray(first))


def test_sixteen_bits_are_scaled_to_eight_and_not_cut() -> None:
    found = np.asarray(decode(png16(), LIMITS))[..., 0].ravel()
    assert found[0] == 0
    assert found[-1] == 255
    assert abs(int(found[96]) - 128) <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_image_cut_short_is_refused(format: str) -> None:
    data = encoded(picture(size=(64, 64)), format)
    with pytest.raises(ImageRefused, match="image_undecodable"):
        decode(data[: len(data) // 2], LIMITS)


def test_image_of_too_many_pixels_is_refused_before_decoding() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageRefused, match="image_too_many_pixels: 50000 x 50000, at most"):
            read_header(huge_png(), LIMITS)


def test_our_own_limit_alone_decides_on_pixels() -> None:
    limits = ImageLimits(max_pixels=10**10)
    assert read_header(huge_png(), limits).width == 50_000
    with pytest.raises(ImageRefused, match="16 x 12, at most 191 pixels"):
        read_header(jpeg(), ImageLimits(max_pixels=191))
    assert read_header(jpeg(), ImageLimits(max_pixels=192)).height == 12


def test_too_many_bytes_are_refused_at_the_limit() -> None:
    data = jpeg()
    assert read_header(data, ImageLimits(max_bytes=len(data))).width == 16
    with pytest.raises(ImageRefused, match=f"{len(data)} bytes, at most {len(data) - 1}"):
        read_header(data, ImageLimits(max_bytes=len(data) - 1))


def test_compressed_text_that_grows_is_refused_and_not_inflated() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "x" * 10_000_000, zip=True)
    with pytest.raises(ImageRefused, match="image_undecodable"):
        read_header(encoded(picture(), "PNG", pnginfo=info), LIMITS)


@pytest.mark.parametrize("format", ["TIFF", "PPM", "ICO", "TGA", "PCX", "EPS"])
def test_other_formats_come_near_no_decoder(format: str) -> None:
    with pytest.raises(ImageRefused, match="is no JPEG, PNG, WebP, GIF or BMP"):
        read_header(encoded(picture(), format), LIMITS)


@pytest.mark.parametrize(
    ("format", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("MPO", "jpg")]
)
def test_common_formats_are_stored_as_they_are(format: str, suffix: str) -> None:
    data = encoded(picture(), format)
    assert as_stored(data, LIMITS) == (suffix, data)


@pytest.mark.parametrize("format", ["GIF", "BMP"])
def test_other_formats_are_stored_as_png(format: str) -> None:
    data = encoded(picture(), format)
    suffix, stored = as_stored(data, LIMITS)
    assert suffix == "png"
    assert np.array_equal(np.asarray(decode(stored, LIMITS)), np.asarray(decode(data, LIMITS)))


def test_detail_of_a_problem_is_one_bounded_line() -> None:
    problem = Problem("x", "a\nb\x00" + "c" * 1000)
    assert problem.detail.startswith(r"a\nb\x00ccc")
    assert len(problem.detail) == 300

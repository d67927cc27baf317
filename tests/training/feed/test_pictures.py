"""What the feed knows of pictures, held against the stock processors."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from feeding import byte_tokenizer, processor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import COMBINATIONS, tiny_spec

from vila2data.corpus.images import ImageRefused
from vila2data.training.architectures.assemble import assemble
from vila2data.training.feed.pictures import PictureProcessor, scaled

torch = pytest.importorskip("torch")

PROCESSORS = ["clip-pil", *("-".join(pair) for pair in COMBINATIONS)]
SIZES = [(64, 48), (300, 31), (31, 200), (33, 40), (1, 1), (3, 1), (3, 90), (640, 480)]


@cache
def assembled(name: str) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    if name == "clip-pil":
        return None, processor_of(byte_tokenizer())
    folder = Path(mkdtemp(prefix="vila2data-test-"))
    return assemble(tiny_spec(folder, *name.split("-")))


@cache
def pictures_of(name: str) -> PictureProcessor:
    return PictureProcessor(assembled(name)[1])


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def stock(name: str, pictures: list[Image.Image]) -> dict[str, Any]:
    """What the processor makes of pictures, each in a text of its own."""
    processor = assembled(name)[1]
    return dict(
        processor(
            images=[[picture] for picture in pictures],
            text=[processor.image_token] * len(pictures),
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
        )
    )


def kept_sizes(name: str) -> list[tuple[int, int]]:
    """Those of the sizes that the processor takes beside others."""
    return [size for size in SIZES if takes(name, size)]


def takes(name: str, size: tuple[int, int]) -> bool:
    try:
        pictures_of(name).tokens_of(*size)
    except ImageRefused:
        return False
    return True


@pytest.mark.parametrize("name", PROCESSORS)
def test_scaled_late_is_what_the_stock_processor_makes(name: str) -> None:
    pictures = [noise(*size) for size in kept_sizes(name)]
    # The number of patches that a SigLIP2 takes is small in a tiny one.
    assert len(pictures) >= (5 if name.startswith("vila-siglip") else len(SIZES))
    inputs = scaled(pictures_of(name)(pictures), pictures_of(name).late_scale)
    whole = stock(name, pictures)
    assert inputs.keys() == whole.keys() - {"input_ids", "attention_mask"}
    for key, values in inputs.items():
        expected = whole[key]
        assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
        if name.startswith("llava_next") and key == "pixel_values":
            # Tiles that pad a picture to as many as its neighbours have; no model looks at them.
            used = expected.abs().sum(dim=(-1, -2, -3)) > 0
            values, expected = values[used], expected[used]
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)


def test_pixels_travel_as_bytes_where_that_is_the_same() -> None:
    late = {name for name in PROCESSORS if pictures_of(name).late_scale is not None}
    assert late >= {"clip-pil", "llava-clip", "llava-siglip", "llava_next-clip", "vila-internvit"}
    for name in late:
        assert pictures_of(name)([noise(50, 40)])["pixel_values"].dtype == torch.uint8


def test_tiles_that_pad_change_nothing_in_a_tiled_model() -> None:
    name = "llava_next-clip"
    model, _ = assembled(name)
    pictures = [noise(300, 31), noise(40, 40)]
    whole = stock(name, pictures)
    inputs = scaled(pictures_of(name)(pictures), pictures_of(name).late_scale)
    assert not torch.equal(inputs["pixel_values"], whole["pixel_values"])
    with torch.inference_mode():
        expected = model(**whole).logits
        found = model(**{**whole, **inputs}).logits
    mask = whole["attention_mask"].bool()
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=12, deadline=None)
@given(size=st.tuples(st.integers(1, 260), st.integers(1, 260)))
def test_tokens_of_a_size_are_those_of_the_stock_processor(name: str, size: Any) -> None:
    if max(size) > 50 * min(size):
        return
    if takes(name, size):
        tokens = pictures_of(name).tokens_of(*size)
        assert tokens == stock(name, [noise(*size)])["input_ids"][0].tolist()
    else:
        with pytest.raises(RuntimeError, match="Sizes of tensors"):  # as a batch would end
            stock(name, [noise(*size), noise(64, 64)])


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 51), (16_385, 100)])
@pytest.mark.parametrize("name", ["clip-pil", "llava-clip", "llava_next-clip"])
def test_long_thin_pictures_are_refused_before_they_become_huge(name: str, size: Any) -> None:
    with pytest.raises(
        ImageRefused, match=rf"^image_too_narrow: {size[0]} x {size[1]}, at most 50"
    ):
        pictures_of(name).tokens_of(*size)


def test_the_longest_picture_that_is_taken() -> None:
    assert len(pictures_of("llava-clip").tokens_of(1, 50)) == 16
    inputs = pictures_of("llava-clip")([noise(1, 50)])
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)


def test_a_size_that_the_processor_cannot_take_beside_others_is_refused() -> None:
    with pytest.raises(ImageRefused, match=r"^image_unprocessable: RuntimeError: Sizes of tensors"):
        pictures_of("vila-siglip").tokens_of(10, 400)


def test_a_tokenizer_without_padding_is_not_changed() -> None:
    processor = processor_of(byte_tokenizer(pads=False))
    pictures = PictureProcessor(processor)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert pictures.tokens_of(300, 20) == [image] * 16
    assert processor.tokenizer.pad_token is None


def test_text_alone_is_left_as_it_is() -> None:
    batch = {"input_ids": torch.ones(1, 2)}
    assert scaled(batch, pictures_of("llava-clip").late_scale) == batch

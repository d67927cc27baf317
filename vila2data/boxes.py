"""Boxes in the image: geometry over arrays, and how boxes are written into text.

Boxes are xyxy. ``_norm`` means 0-1 of the image's width and height, which is the stored form.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .cuboids import Floats

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Size = tuple[int, int]
"""Width and height in pixels."""


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of the pairs of two lists of boxes.

    Args:
        a: (n, 4).
        b: (n, 4), in the same unit.

    Returns:
        (n,); NaN where a box holds NaN, 0 where both are empty.
    """
    shared = _area(np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:]))
    union = _area(a[:, :2], a[:, 2:]) + _area(b[:, :2], b[:, 2:]) - shared
    share: Floats = shared / np.where(union == 0, 1.0, union)
    return share


def _area(low: Floats, high: Floats) -> Floats:
    area: Floats = np.maximum(high - low, 0.0).prod(axis=1)
    return area


def clip(boxes_px: Floats, width: Floats | float, height: Floats | float) -> Floats:
    """The part of each box that lies in the image; a box outside becomes empty, NaN stays NaN.

    Args:
        boxes_px: (n, 4).
        width: of all images, or (n,) of each box's own.
        height: the same.
    """
    limits = np.stack(np.broadcast_arrays(width, height, width, height), axis=-1)
    inside: Floats = np.clip(boxes_px, 0.0, limits)
    return inside


def xyxy_from_xywh(boxes: Floats) -> Floats:
    """Boxes (..., 4) of left, top, width, height as xyxy."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xywh_from_xyxy(boxes: Floats) -> Floats:
    """Boxes (..., 4) of xyxy as left, top, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


_LAST_ZEROS = re.compile(r"(?<=\.\d)(\d*?)0+\b")


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes that stand together in a text, as those of one phrase do; ``text[start:end]``."""

    boxes: tuple[Box, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Convention:
    """A way to write boxes into text, and to read them back.

    A coordinate is rounded to the nearest step. A box thinner than a step is widened to one, so
    that what was written is always a box, and writing what was read gives the same text again.

    Attributes:
        name: in recipes.
        about: what it looks like, and the source.
        form: of one box, ``{}`` for each coordinate.
        steps: along each side of the image; None for one each pixel, which needs the size.
        decimals: of the written 0-1 number; None where the step's number is written.
        trims: a last zero is not written, as Python prints a rounded number: 0.4, 0.0.
        opening, joint, closing: around and between the boxes of one phrase.
        phrase: how a phrase is written before its boxes.
    """

    name: str
    about: str
    form: str = "[{}, {}, {}, {}]"
    steps: int | None = None
    decimals: int | None = None
    trims: bool = False
    opening: str = ""
    joint: str = ", "
    closing: str = ""
    phrase: str = "{} "

    def render(self, box_norm: Sequence[float], size: Size | None = None) -> str:
        """The text of one box.

        Args:
            box_norm: xyxy.
            size: width and height, where the convention writes pixels.

        Raises:
            ValueError: the box is empty, leaves the image or is no box; or the size is missing.
        """
        written = self._write(_checked(box_norm), self._steps(size))
        return f"{self.opening}{written}{self.closing}"

    def render_each(self, boxes_norm: Floats, sizes: Sequence[Sequence[int]]) -> list[str]:
        """The text of each of many boxes, (n, 4), by itself; as ``render``, and quicker.

        Args:
            boxes_norm: (n, 4), xyxy.
            sizes: (n, 2), width and height, where the convention writes pixels.
        """
        starts = np.arange(len(boxes_norm) + 1)
        texts: list[str] = self.render_groups(boxes_norm, starts, sizes).to_pylist()
        return texts

    def render_all(self, boxes_norm: Iterable[Sequence[float]], size: Size | None = None) -> str:
        """The text of all boxes of one phrase, at least one; otherwise as ``render``."""
        steps = self._steps(size)
        written = [self._write(_checked(box), steps) for box in boxes_norm]
        if not written:
            raise ValueError("no box to write")
        return f"{self.opening}{self.joint.join(written)}{self.closing}"

    def render_groups(
        self, boxes_norm: Floats, starts: NDArray[np.int64], sizes: Sequence[Sequence[int]]
    ) -> pa.StringArray:
        """The text of the boxes of each of many phrases; as ``render_all`` of each, and quicker.

        Args:
            boxes_norm: (n, 4), phrase after phrase.
            starts: (p + 1,), where those of each phrase begin; none is without.
            sizes: (p, 2), width and height, where the convention writes pixels.

        Raises:
            ValueError: as ``render``.
        """
        boxes = np.asarray(boxes_norm, np.float64)
        if self.steps is None:
            phrase = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist()
            one_by_one = zip(boxes.tolist(), phrase, strict=True)
            written = [
                self._write(_checked(box), self._steps((sizes[n][0], sizes[n][1])))
                for box, n in one_by_one
            ]
            each = pa.array(written, pa.string())
        else:
            each = self._write_each(boxes, self.steps)
        lists = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), each)
        joined = pc.binary_join(lists, self.joint)
        texts: pa.StringArray = pc.binary_join_element_wise(self.opening, joined, self.closing, "")
        return texts

    def _write_each(self, boxes: Floats, steps: int) -> pa.StringArray:
        """Numbers are looked up: there are few."""
        places = np.rint(boxes * steps)
        inside = ((boxes >= 0) & (boxes <= 1)).all(axis=1)
        plain = np.logical_and(inside, (places[:, :2] < places[:, 2:]).all(axis=1))
        numbers = [
            n if self.decimals is None else self._trimmed(f"{n / steps:.{self.decimals}f}")
            for n in range(steps + 1)
        ]
        table = pa.array(map(str, numbers), pa.string())
        safe = np.where(plain[:, None], places, 0).astype(np.int32)
        columns = [table.take(pa.array(column)) for column in safe.T]
        between = self.form.split("{}")
        parts = [part for pair in zip(between, columns, strict=False) for part in pair]
        written = pc.binary_join_element_wise(*parts, between[-1], "")
        odd = np.flatnonzero(~plain)
        if not len(odd):
            return written
        told = [self._write(_checked(boxes[place].tolist()), (steps, steps)) for place in odd]
        return pc.replace_with_mask(written, pa.array(~plain), pa.array(told, pa.string()))

    def marked(self, phrase: str) -> str:
        """A phrase as it is written before its boxes."""
        return self.phrase.replace("{}", phrase)

    def ground(
        self, phrase: str, boxes_norm: Iterable[Sequence[float]], size: Size | None = None
    ) -> str:
        """A phrase with its boxes; otherwise as ``render``."""
        return self.marked(phrase) + self.render_all(boxes_norm, size)

    def parse(self, text: str, size: Size | None = None) -> list[Found]:
        """All boxes in ``text``, exactly as this convention writes them, by place.

        What has another form, leaves the image or is empty is no box; where one of several that
        stand together is none, none of them is found.
        """
        steps = self._steps(size)
        found = []
        for match in self._together.finditer(text):
            boxes = [self._read(m.groups(), steps) for m in self._one.finditer(match.group())]
            sound = tuple(box for box in boxes if box is not None)
            if len(sound) == len(boxes):
                found.append(Found(sound, match.start(), match.end()))
        return found

    def stands_in(self, text: str) -> bool:
        """Whether ``text`` holds something of the form of a box, be it one or not."""
        return self._begun.search(text) is not None

    @cached_property
    def lead(self) -> str:
        """What every text with a box holds: a quick test before the others."""
        return (self.opening + self.form).partition("{}")[0]

    def read(self, text: str, size: Size | None = None) -> Box | None:
        """The box, 0-1, of ``text`` where the text is one box and nothing else; None otherwise."""
        found = self.parse(text, size)
        if len(found) != 1 or len(found[0].boxes) != 1:
            return None
        return found[0].boxes[0] if (found[0].start, found[0].end) == (0, len(text)) else None

    def precision(self, size: Size | None = None) -> float:
        """The largest difference of a coordinate, 0-1, from what is read back: one step."""
        return 1 / min(self._steps(size))

    def _steps(self, size: Size | None) -> Size:
        if self.steps is not None:
            return self.steps, self.steps
        if size is None or min(size) < 1:
            raise ValueError(f"'{self.name}' needs the image's width and height, not {size}")
        return size

    @property
    def _number(self) -> str:
        if self.decimals is None:
            return "0|[1-9][0-9]{0,5}"
        if self.trims:
            return rf"[01]\.[0-9](?:[0-9]{{0,{self.decimals - 2}}}[1-9])?"
        return rf"[01]\.[0-9]{{{self.decimals}}}"

    def _pattern(self, number: str) -> str:
        return re.escape(self.form).replace(r"\{\}", number)

    @cached_property
    def _printed(self) -> str:
        number = "%d" if self.decimals is None else f"%.{self.decimals}f"
        return self.form.replace("%", "%%").replace("{}", number)

    @cached_property
    def _one(self) -> re.Pattern[str]:
        return re.compile(self._pattern(f"({self._number})"))

    @cached_property
    def _begun(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.opening) + self._pattern(f"(?:{self._number})"))

    @cached_property
    def _together(self) -> re.Pattern[str]:
        one = self._pattern(f"(?:{self._number})")
        opening, joint, closing = map(re.escape, (self.opening, self.joint, self.closing))
        return re.compile(f"{opening}{one}(?:{joint}{one})*{closing}")

    def _write(self, box: Box, steps: Size) -> str:
        x1, x2 = _nearest(box[0], box[2], steps[0])
        y1, y2 = _nearest(box[1], box[3], steps[1])
        if self.decimals is None:
            return self._printed % (x1, y1, x2, y2)
        across, down = steps
        return self._trimmed(self._printed % (x1 / across, y1 / down, x2 / across, y2 / down))

    def _trimmed(self, text: str) -> str:
        return _LAST_ZEROS.sub(r"\1", text) if self.trims else text

    def _read(self, groups: Sequence[str], steps: Size) -> Box | None:
        if self.decimals is None:
            x1, y1, x2, y2 = (int(g) / n for g, n in zip(groups, steps * 2, strict=True))
        else:
            x1, y1, x2, y2 = map(float, groups)
        box = (x1, y1, x2, y2)
        return box if _is_box(box) else None


class _Patches(Convention):
    """Kosmos-2: the patches of the upper left and the lower right corner, counted by rows."""

    _number = "[0-9]{4}"
    _printed = "<patch_index_%04d><patch_index_%04d>"

    def _write(self, box: Box, steps: Size) -> str:
        across, down = steps
        first = floor(box[1] * down) * across + floor(box[0] * across)
        last = (ceil(box[3] * down) - 1) * across + ceil(box[2] * across) - 1
        return self._printed % (first, last)

    def _write_each(self, boxes: Floats, steps: int) -> pa.StringArray:
        written = [self._write(_checked(box), (steps, steps)) for box in boxes.tolist()]
        return pa.array(written, pa.string())

    def _read(self, groups: Sequence[str], steps: Size) -> Box | None:
        across, down = steps
        (top, left), (bottom, right) = (divmod(int(group), across) for group in groups)
        if max(top, bottom) >= down or left > right or top > bottom:
            return None
        # Within one row or column the patches' outer borders, else the centres of both patches.
        inset, end = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
        return (
            (left + inset) / across,
            (top + inset) / down,
            (right + end) / across,
            (bottom + end) / down,
        )


def _is_box(box: Box) -> bool:
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1  # NaN fails each of them


def _checked(box_norm: Sequence[float]) -> Box:
    if len(box_norm) == 4:
        x1, y1, x2, y2 = map(float, box_norm)
        if _is_box((x1, y1, x2, y2)):
            return x1, y1, x2, y2
    numbers = [float(number) for number in box_norm]
    raise ValueError(f"box {numbers}: must be 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")


def _nearest(low: float, high: float, steps: int) -> tuple[int, int]:
    first, last = round(low * steps), round(high * steps)
    if first < last:
        return first, last
    upwards = first < steps and (low + high) * steps >= 2 * first
    return (first, first + 1) if upwards else (first - 1, first)


_ALL = (
    Convention(
        "norm3",
        "[0.123, 0.456, 0.700, 0.800], 0-1 with three decimals. Default of this package.",
        steps=1000,
        decimals=3,
    ),
    Convention(
        "norm2",
        "[0.12, 0.46, 0.70, 0.80], 0-1 with two decimals.",
        steps=100,
        decimals=2,
    ),
    Convention(
        "llava",
        "[0.12, 0.46, 0.7, 0.8], 0-1 with two decimals, of which a last zero is left out. "
        "LLaVA-1.5's instruction data; its boxes are reported to be in the image padded to a "
        "square, here they are in the image.",
        steps=100,
        decimals=2,
        trims=True,
    ),
    Convention(
        "shikra",
        "[0.123,0.456,0.700,0.800;0.100,0.200,0.300,0.400], the boxes of a phrase in one pair of "
        "brackets. Shikra, PlainBoxFormatter.",
        form="{},{},{},{}",
        steps=1000,
        decimals=3,
        opening="[",
        joint=";",
        closing="]",
    ),
    Convention(
        "vila",
        "[0.123,0.456,0.700,0.800], several of a phrase joined by a semicolon. VILA², "
        "[xmin,ymin,xmax,ymax]; the paper does not tell the range, here 0-1 with three decimals.",
        form="[{},{},{},{}]",
        joint=";",
        steps=1000,
        decimals=3,
    ),
    Convention(
        "ferret",
        "[123, 456, 700, 800], on a canvas of 1000 x 1000. Ferret, VOCAB_IMAGE_W and _H; it cuts "
        "the fraction off, here it is rounded.",
        steps=1000,
    ),
    _Patches(
        "kosmos2",
        "<object><patch_index_0044><patch_index_0863></object>, patches of a grid of 32 x 32. "
        "Kosmos-2, as transformers' Kosmos2Processor writes and reads it.",
        form="<patch_index_{}><patch_index_{}>",
        steps=32,
        opening="<object>",
        joint="</delimiter_of_multi_objects/>",
        closing="</object>",
        phrase="<phrase>{}</phrase>",
    ),
    Convention(
        "qwen_vl",
        "<box>(123,456),(700,800)</box>, 0-999. Qwen-VL: [0, 1000) in its README, 999 is the "
        "image's far side in its evaluation.",
        form="<box>({},{}),({},{})</box>",
        steps=999,
        joint="",
        phrase="<ref>{}</ref>",
    ),
    Convention(
        "qwen2_vl",
        "<|box_start|>(123,456),(700,800)<|box_end|>, 0-999. Qwen2-VL: [0, 1000) in its report.",
        form="<|box_start|>({},{}),({},{})<|box_end|>",
        steps=999,
        joint="",
        phrase="<|object_ref_start|>{}<|object_ref_end|>",
    ),
    Convention(
        "qwen2_5_vl",
        '{"bbox_2d": [123, 456, 700, 800]}, pixels of the image as the model gets it. Qwen2.5-VL; '
        "it resizes to multiples of 28, so give that size.",
        form='{"bbox_2d": [{}, {}, {}, {}]}',
    ),
    Convention(
        "qwen3_vl",
        '{"bbox_2d": [123, 456, 700, 800]}, 0-1000 whatever the size. Qwen3-VL.',
        form='{"bbox_2d": [{}, {}, {}, {}]}',
        steps=1000,
    ),
    Convention("pixels", "[123, 456, 700, 800], pixels of the image itself."),
)

CONVENTIONS: Mapping[str, Convention] = MappingProxyType({each.name: each for each in _ALL})
"""Every convention by its name."""

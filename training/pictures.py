"""Simple pictures with alt-text in the web's manner, drawn by the project itself."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

from vila2data.keyed import keyed_hash

_COLOURS = {
    "red": (208, 58, 52),
    "green": (66, 148, 84),
    "blue": (58, 96, 190),
    "yellow": (230, 190, 60),
    "white": (240, 240, 236),
    "black": (36, 36, 40),
}
_SHAPES = ("circle", "box", "triangle", "ring")
_SIDE_PX = 128
_ALT_TEXTS = (
    "{a} and {b}",
    "{a}",
    "IMG_{n:04d}.jpg {a}",
    "{b} wallpaper | free download",
    "untitled",
)


def draw_pictures(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Draws ``count`` pictures of two shapes each, and writes their alt-texts.

    The alt-text is as poor as the web's: partial, sometimes a file name, sometimes nothing to do
    with the picture.

    Args:
        folder: gets ``0000.png`` … and ``captions.jsonl``.
        count: of pictures.
        seed: decides everything that is drawn.

    Returns:
        The file of captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        picture, named = _draw(seed, number)
        name = f"{number:04d}.png"
        picture.save(folder / name)
        pattern = _ALT_TEXTS[keyed_hash(seed, number, "alt") % len(_ALT_TEXTS)]
        text = pattern.format(a=named[0], b=named[1], n=number)
        lines.append(json.dumps({"file_name": name, "caption": text}))
    captions = folder / "captions.jsonl"
    captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return captions


def _draw(seed: int, number: int) -> tuple[Image.Image, list[str]]:
    def pick(options: list[str], what: str) -> str:
        return options.pop(keyed_hash(seed, number, what) % len(options))

    colours = list(_COLOURS)
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), _COLOURS[pick(colours, "background")])
    pen = ImageDraw.Draw(picture)
    named = []
    for slot, centre_x in enumerate((40, 88)):
        colour, shape = pick(colours, f"colour {slot}"), pick(list(_SHAPES), f"shape {slot}")
        centre_y = 44 + keyed_hash(seed, number, slot, "height") % 40
        radius = 12 + keyed_hash(seed, number, slot, "radius") % 14
        _shape(pen, shape, (centre_x, centre_y), radius, _COLOURS[colour])
        named.append(f"{colour} {shape}")
    return picture, named


def _shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[int, int],
    radius: int,
    colour: tuple[int, int, int],
) -> None:
    x, y = centre
    corners = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(corners, fill=colour)
    elif shape == "ring":
        pen.ellipse(corners, outline=colour, width=5)
    elif shape == "box":
        pen.rectangle(corners, fill=colour)
    else:
        pen.polygon(
            [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=colour
        )

"""A row from behind and above its camera, as a picture: solid boxes on the ground, and the camera.

Needs the package ``open3d``, of which it uses the ray caster alone: no display, no graphics card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import radians, tan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from vila2data.cuboids import Floats, project
from vila2data.errors import BadInput, MissingExtra
from vila2data.optional import require

from .labels import Labels
from .overlay import PALETTE
from .space import Space, space_of
from .topview import step_of

WIDTH_PX, HEIGHT_PX = 640, 480

_FOV_DEG, _DOWN_DEG, _ASIDE_DEG = 42.0, 33.0, 14.0
_FILLED = 0.86  # of the picture, by what is to be seen
_SKY = np.array([226, 232, 240], dtype=np.float32)
_GROUND = np.array([247, 248, 250], dtype=np.float32)
_LINE = np.array([178, 188, 201], dtype=np.float32)
_INK = (28, 36, 48)
_PAPER = (255, 255, 255)
_FACES = np.array(  # two triangles for each side, corners in the order of `corners`
    [
        *([0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6], [0, 4, 5], [0, 5, 1]),
        *([3, 2, 6], [3, 6, 7], [1, 5, 6], [1, 6, 2], [0, 3, 7], [0, 7, 4]),
    ],
    dtype=np.uint32,
)

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """The plane ``down`` · p = ``depth_m``; ``right`` and ``ahead`` lie in it."""

    down: Floats
    right: Floats
    ahead: Floats
    depth_m: float


@dataclass(frozen=True, slots=True, eq=False)
class _Eye:
    """The camera that the picture is taken with; rows of ``axes`` are right, down, forward."""

    place: Floats
    axes: Floats
    focal_px: float

    @property
    def intrinsics(self) -> Floats:
        f = self.focal_px
        return np.array([[f, 0, WIDTH_PX / 2], [0, f, HEIGHT_PX / 2], [0, 0, 1]])

    def pixels(self, points: Floats) -> Floats:
        """Pixels (n, 2) of points (n, 3) before the eye."""
        return project((points - self.place) @ self.axes.T, self.intrinsics)

    def directions(self) -> Pixels:
        """Of the ray through each pixel, (h, w, 3), one metre ahead."""
        x = (np.arange(WIDTH_PX) + 0.5 - WIDTH_PX / 2) / self.focal_px
        y = (np.arange(HEIGHT_PX) + 0.5 - HEIGHT_PX / 2) / self.focal_px
        right, down, ahead = self.axes
        rays = ahead + x[None, :, None] * right + y[:, None, None] * down
        single: Pixels = rays.astype(np.float32)
        return single


def view_of(row: Mapping[str, Any]) -> Image.Image:
    """The row's boxes in the colours of their labels, 640 x 480, RGB.

    Boxes that no question names are paler, those far beyond the others are left out.

    Args:
        row: of ``spatial-relation-qa``, as `datasets.load_dataset` or DuckDB gives it.

    Raises:
        BadInput: the row holds no box in space.
        MissingExtra: open3d is not installed, or cannot be loaded.
    """
    space = space_of(row)
    if space is None:
        raise BadInput(
            f"row '{row.get('id')}': objects: none has a box in space; "
            "center, dimensions and rotation must be 3, 3 and 9 finite numbers"
        )
    return view_of_space(space)


def save_view(row: Mapping[str, Any], path: Path) -> None:
    """Writes ``view_of(row)``; the ending of ``path`` says in which form.

    Raises:
        BadInput: the row holds no box in space, or Pillow knows no such ending.
        MissingExtra: open3d is not installed, or cannot be loaded.
    """
    image = view_of(row)
    try:
        image.save(path)
    except ValueError as error:
        raise BadInput(f"{path}: no form of picture ends so; take .png or .jpg") from error


def view_of_space(space: Space) -> Image.Image:
    """As ``view_of``.

    Raises:
        MissingExtra: open3d is not installed, or cannot be loaded.
    """
    open3d = _open3d()
    shown = np.flatnonzero(space.nearby())
    ground = _ground(space, shown)
    body = _body(space, shown)
    eye = _eye(ground, np.concatenate([space.corners[shown].reshape(-1, 3), body]))
    rays = eye.directions()
    pixels = _floor(ground, eye, rays, reach_m=_reach_m(space, shown))
    _paint_boxes(pixels, open3d, space, shown, eye, rays)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    _draw_camera(image, eye.pixels(body))
    _write_numbers(image, space, shown, eye)
    return image


def _open3d() -> Any:
    try:
        return require("open3d", extra="spatial")
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise MissingExtra(
            f"open3d is installed but cannot be loaded: {reason}; install what it names, "
            "such as the system packages libgomp1, libgl1 and libx11-6"
        ) from error


def _ground(space: Space, shown: NDArray[np.intp]) -> _Ground:
    """A plane under the boxes: as most of them stand, as deep as all but the deepest."""
    sideways = space.rotation[shown, :, 1]  # the boxes' own y, which points down or up
    down = np.median(sideways * np.where(sideways[:, 1:2] < 0, -1, 1), axis=0)
    if down[1] < 0.5:  # boxes that lie on their sides say nothing
        down = np.array([0.0, 1.0, 0.0])
    down = down / np.linalg.norm(down)
    ahead = np.array([0.0, 0.0, 1.0]) - down[2] * down
    ahead = ahead / np.linalg.norm(ahead)
    bottoms = (space.corners[shown] @ down).max(axis=1)
    return _Ground(down, np.cross(down, ahead), ahead, float(np.quantile(bottoms, 0.8)))


def _body(space: Space, shown: NDArray[np.intp]) -> Floats:
    """The row's camera as a pyramid: its tip, then the four corners of its picture, (5, 3)."""
    across = np.array([[-0.6, -0.45], [0.6, -0.45], [0.6, 0.45], [-0.6, 0.45]])
    if space.camera is not None:
        k, size = space.camera.intrinsics, (space.camera.width_px, space.camera.height_px)
        edges = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
        across = ((edges - k[:2, 2]) / k[[0, 1], [0, 1]]).clip(-2, 2)
    length_m = 0.07 * _reach_m(space, shown)
    picture = np.concatenate([across, np.ones((4, 1))], axis=1) * length_m
    return np.concatenate([np.zeros((1, 3)), picture])


def _eye(ground: _Ground, points: Floats) -> _Eye:
    """Behind and above, a little aside, as near as shows all points."""
    aside, dip = radians(_ASIDE_DEG), radians(_DOWN_DEG)
    level = ground.ahead * np.cos(aside) + ground.right * np.sin(aside)
    forward = level * np.cos(dip) + ground.down * np.sin(dip)
    right = np.cross(ground.down, level)
    axes = np.stack([right, np.cross(forward, right), forward])
    seen = points @ axes.T  # (n, 3)
    middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
    focal_px = WIDTH_PX / 2 / tan(radians(_FOV_DEG / 2))
    half_px = np.array([WIDTH_PX, HEIGHT_PX]) / 2 * _FILLED
    away = np.abs(seen[:, :2] - middle[:2]) * focal_px / half_px
    back = float((away.max(axis=1) + middle[2] - seen[:, 2]).max())
    return _Eye((middle - [0, 0, back]) @ axes, axes, focal_px)


def _reach_m(space: Space, shown: NDArray[np.intp]) -> float:
    """How far away the farthest object stands, at least a metre."""
    return max(float(np.linalg.norm(space.center[shown], axis=1).max()), 1.0)


def _floor(ground: _Ground, eye: _Eye, rays: Pixels, *, reach_m: float) -> Pixels:
    """The ground with a grid that fades with the distance, under a plain sky, (h, w, 3)."""
    slope = rays @ ground.down.astype(np.float32)  # (h, w)
    height_m = ground.depth_m - float(eye.place @ ground.down)
    with np.errstate(divide="ignore"):
        far = np.where(slope > 1e-6, height_m / slope, np.inf).astype(np.float32)
    far = np.where(far > 0, np.minimum(far, 1e6), 1e6)
    step_m = step_of(reach_m / 6)
    lined = np.zeros_like(far)
    for axis in (ground.right, ground.ahead):
        along = (rays @ axis.astype(np.float32)) * far + float(eye.place @ axis)
        off = np.abs((along / step_m + 0.5) % 1 - 0.5) * step_m
        lined = np.maximum(lined, 1.4 - off * eye.focal_px / far)
    fade = np.exp(-((far / (3.0 * height_m if height_m > 0 else 1.0)) ** 2))[..., None]
    pixels = _GROUND + lined.clip(0, 1)[..., None] * (_LINE - _GROUND)
    drawn: Pixels = _SKY + (pixels - _SKY) * fade
    return drawn


def _paint_boxes(
    pixels: Pixels, open3d: Any, space: Space, shown: NDArray[np.intp], eye: _Eye, rays: Pixels
) -> None:
    """Lays the boxes over ``pixels``: light by the normal of the face, edges dark."""
    corners = space.corners[shown].reshape(-1, 3).astype(np.float32)
    offsets = np.arange(len(shown), dtype=np.uint32)[:, None, None] * 8
    tensor = open3d.core.Tensor
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(tensor(corners), tensor((_FACES + offsets).reshape(-1, 3)))
    start = np.broadcast_to(eye.place.astype(np.float32), rays.shape)
    cast = scene.cast_rays(tensor(np.concatenate([start, rays], axis=-1)))
    far = cast["t_hit"].numpy()
    hit = np.isfinite(far)
    box = shown[cast["primitive_ids"].numpy()[hit] // 12]
    palette = np.array([ImageColor.getrgb(colour) for colour in PALETTE], dtype=np.float32)
    colours = palette[np.array(space.colours)]
    colours = np.where(space.has_role[:, None], colours, 0.45 * colours + 0.55 * 235)
    light = (eye.axes.T @ [-0.45, -0.8, -0.6]).astype(np.float32)  # from the upper left
    lit = np.abs(cast["primitive_normals"].numpy()[hit] @ light)
    points = eye.place + far[hit][:, None] * rays[hit]
    dark = _on_edge(space, box, points, far[hit] / eye.focal_px)
    shade = (0.6 + 0.4 * lit / np.linalg.norm(light)) * (1 - 0.55 * dark)
    pixels[hit] = colours[box] * shade[:, None]


def _on_edge(space: Space, box: NDArray[np.intp], points: Floats, pixel_m: Pixels) -> Floats:
    """How far points on boxes belong to an edge, (n,), 0-1; ``pixel_m`` is a pixel's size there."""
    local = np.einsum("nij,ni->nj", space.rotation[box], points - space.center[box])
    inside = space.dimensions[box][:, ::-1] / 2 - np.abs(local)
    second = np.sort(inside, axis=1)[:, 1]  # the first is the face's own distance
    share: Floats = (1.8 - second / pixel_m).clip(0, 1)
    return share


def _draw_camera(image: Image.Image, pixels: Floats) -> None:
    draw = ImageDraw.Draw(image)
    tip, *corners = [(float(x), float(y)) for x, y in pixels]
    for one, other in zip(corners, [*corners[1:], corners[0]], strict=True):
        draw.line([tip, one], fill=_INK, width=2)
        draw.line([one, other], fill=_INK, width=2)


def _write_numbers(image: Image.Image, space: Space, shown: NDArray[np.intp], eye: _Eye) -> None:
    """Writes the numbers of objects above them, as many as find room; those with a role first."""
    draw = ImageDraw.Draw(image)
    labels = Labels(*image.size, font=1.3)
    outlines = eye.pixels(space.corners[shown])  # (n, 8, 2)
    for n, outline in zip(shown, outlines, strict=True):
        must = bool(space.questions and space.has_role[n])
        spot = (float(outline[:, 0].mean()), float(outline[:, 1].min()) - 9)
        labels.place(str(space.numbers[n]), [spot], must=must)
    font = ImageFont.load_default(15)
    for label in labels.take():
        place = (label.x_px, label.y_px)
        draw.text(place, label.text, _INK, font, anchor="mm", stroke_width=2, stroke_fill=_PAPER)

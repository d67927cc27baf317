"""Makes scenes in the layout of Omni3D: exact ones by hand, plausible random ones by the million."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vila2data.builders.spatial_relation_qa.scene import Scene
from vila2data.cuboids import NEAR_M, corners, project, projected_boxes, yaw_rotation

Array = NDArray[Any]

SCENES_AT_A_TIME = 500


class Kind(NamedTuple):
    """A class of objects: mean [w, h, l] in metres, and how often it stands on something."""

    name: str
    dimensions: tuple[float, float, float]
    raised: float = 0.0


INDOOR = (
    Kind("chair", (0.55, 0.9, 0.55)),
    Kind("table", (0.8, 0.75, 1.4)),
    Kind("coffee_table", (0.6, 0.45, 1.0)),
    Kind("night_stand", (0.45, 0.6, 0.5)),
    Kind("bed", (1.6, 0.9, 2.1)),
    Kind("sofa", (0.9, 0.85, 1.9)),
    Kind("lamp", (0.3, 0.5, 0.3), 0.7),
    Kind("monitor", (0.15, 0.4, 0.6), 0.9),
    Kind("Book Shelf", (0.35, 1.9, 0.9)),
    Kind("box", (0.4, 0.35, 0.5), 0.4),
)
OUTDOOR = (
    Kind("Car", (1.9, 1.6, 4.5)),
    Kind("truck", (2.5, 3.2, 8.0)),
    Kind("bus", (2.8, 3.3, 11.0)),
    Kind("Pedestrian", (0.7, 1.75, 0.8)),
    Kind("bicycle", (0.6, 1.3, 1.8)),
    Kind("motorcycle", (0.8, 1.5, 2.1)),
    Kind("traffic_cone", (0.4, 0.8, 0.4)),
    Kind("barrier", (0.6, 1.0, 2.4)),
)
KINDS = INDOOR + OUTDOOR


class Setting(NamedTuple):
    """Where a scene is: its camera, and the kinds and depths of what it sees."""

    width: int
    height: int
    focal_px: float
    camera_height_m: float
    pitch: float
    depth_m: tuple[float, float]
    kinds: Sequence[Kind]


INSIDE = Setting(640, 480, 520.0, 1.4, 0.25, (0.8, 6.0), INDOOR)
OUTSIDE = Setting(1600, 900, 1260.0, 1.6, 0.02, (3.0, 80.0), OUTDOOR)


@dataclass(frozen=True, slots=True)
class _Views:
    """(s,) scenes before anything stands in them."""

    outside: Array
    focal_px: Array
    center_px: Array
    pitch: Array
    counts: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, boxes: tuple[int, int]) -> "_Views":
        outside = rng.random(count) < 0.5
        size = np.where(outside[:, None], OUTSIDE[:2], INSIDE[:2])
        focal = np.where(outside, OUTSIDE.focal_px, INSIDE.focal_px)
        pitch = np.where(outside, OUTSIDE.pitch, INSIDE.pitch)
        return cls(
            outside=outside,
            focal_px=focal * rng.uniform(0.9, 1.1, count),
            center_px=size / 2 + rng.normal(0, 5, (count, 2)),
            pitch=pitch * rng.uniform(0.5, 1.5, count),
            counts=rng.integers(*boxes, size=count, endpoint=True),
        )

    @property
    def sizes_px(self) -> Array:
        return np.where(self.outside[:, None], OUTSIDE[:2], INSIDE[:2])


def _choice(rng: np.random.Generator, outside: Array) -> Array:
    """The place of each box's kind in ``KINDS``."""
    inside = rng.integers(0, len(INDOOR), len(outside))
    return np.where(outside, len(INDOOR) + rng.integers(0, len(OUTDOOR), len(outside)), inside)


def _tilt(angle: Array) -> Array:
    """Rotations about the camera's x axis, (n, 3, 3)."""
    rotation = np.zeros((len(angle), 3, 3))
    cos, sin = np.cos(angle), np.sin(angle)
    rotation[:, 0, 0] = 1.0
    rotation[:, 1, 1], rotation[:, 1, 2] = cos, -sin
    rotation[:, 2, 1], rotation[:, 2, 2] = sin, cos
    return rotation


class _Stuff(NamedTuple):
    """(n,) boxes of some scenes."""

    scene: Array
    kind: Array
    center: Array
    dimensions: Array
    rotation: Array


def _stuff(rng: np.random.Generator, views: _Views) -> _Stuff:
    """Boxes on the ground, or raised from it, in a level frame that is then pitched."""
    scene = np.repeat(np.arange(len(views.counts)), views.counts)
    count, outside = len(scene), views.outside[scene]
    kind = _choice(rng, outside)
    means = np.array([each.dimensions for each in KINDS])
    dimensions = means[kind] * rng.lognormal(0, 0.15, (count, 3))
    near, far = np.where(outside[:, None], OUTSIDE.depth_m, INSIDE.depth_m).T
    z = near + (far - near) * rng.random(count) ** 1.3
    z *= np.where(rng.random(count) < 0.02, -1, 1)  # behind the camera
    reach = 1.1 * views.sizes_px[scene, 0] / 2 / views.focal_px[scene]
    x = rng.uniform(-1, 1, count) * reach * np.abs(z)
    on_something = rng.random(count) < np.array([each.raised for each in KINDS])[kind]
    ground = np.where(outside, OUTSIDE.camera_height_m, INSIDE.camera_height_m)
    y = ground - dimensions[:, 1] / 2 - on_something * rng.uniform(0.4, 1.0, count)
    pitched = _tilt(views.pitch[scene])
    # On a road most stand along it or across it.
    quarter = rng.integers(0, 4, count) * (np.pi / 2) + rng.normal(0, 0.1, count)
    yaw = np.where(outside & (rng.random(count) < 0.8), quarter, rng.uniform(-np.pi, np.pi, count))
    rotation = pitched @ yaw_rotation(yaw) @ _tilt(rng.normal(0, 0.02, count))
    center = (pitched @ np.stack([x, y, z], axis=1)[:, :, None])[:, :, 0]
    return _Stuff(scene, kind, center, dimensions, rotation)


_IMAGE = (
    '{"id":%d,"dataset_id":%d,"width":%d,"height":%d,"file_path":"%s/%08d.jpg",'
    '"K":[[%.6g,0.0,%.6g],[0.0,%.6g,%.6g],[0.0,0.0,1.0]],"src_90_rotate":0,"src_flagged":false}'
)
_VECTOR = "[%.6g,%.6g,%.6g]"
_RECT = "[%.6g,%.6g,%.6g,%.6g]"
_ANNOTATION = (
    '{"id":%d,"image_id":%d,"dataset_id":%d,"category_id":%d,"category_name":"%s","valid3D":%s,'
    f'"bbox2D_tight":{_RECT},"bbox2D_proj":{_RECT},"bbox2D_trunc":{_RECT},'
    f'"bbox3D_cam":[{",".join([_VECTOR] * 8)}],"center_cam":{_VECTOR},"dimensions":{_VECTOR},'
    f'"R_cam":[{",".join([_VECTOR] * 3)}],"behind_camera":%s,"visibility":%.3g,"truncation":%.3g,'
    '"segmentation_pts":%d,"lidar_pts":%d,"depth_error":%.3g}'
)
_WORDS = np.array(["false", "true"], dtype=object)


@dataclass(frozen=True)
class Chunk:
    """Scenes that are made together, from a seed of their own."""

    seed: int
    number: int
    scenes: int
    boxes: tuple[int, int]

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.number, part))

    def views(self) -> _Views:
        return _Views.draw(self._rng(0), self.scenes, self.boxes)

    @property
    def ids(self) -> Array:
        return 1 + self.number * SCENES_AT_A_TIME + np.arange(self.scenes)

    def images(self) -> list[str]:
        """Each image's JSON."""
        views = self.views()
        rows = zip(
            *(self.ids.tolist(), views.outside.tolist(), views.sizes_px.tolist()),
            *(views.focal_px.tolist(), views.center_px.tolist()),
            strict=True,
        )
        return [
            _IMAGE
            % (id, out, *size, "street" if out else "room", id, focal, center[0], focal, center[1])
            for id, out, size, focal, center in rows
        ]

    def annotations(self) -> tuple[list[str], Array]:
        """Each annotation's JSON, and the place of its image in the chunk."""
        rng, views = self._rng(1), self.views()
        stuff = _stuff(rng, views)
        told = _told(rng, views, stuff)
        count = len(stuff.scene)
        ids = self.number * SCENES_AT_A_TIME * self.boxes[1] + np.arange(count)
        names = np.array([kind.name for kind in KINDS], dtype=object)[stuff.kind]
        columns = [
            *(
                ids,
                self.ids[stuff.scene],
                views.outside[stuff.scene].astype(int),
                stuff.kind,
                names,
            ),
            _WORDS[told.valid.astype(int)],
            *(*told.rects.T, *told.points.reshape(count, -1).T, *stuff.center.T),
            *(*stuff.dimensions.T, *stuff.rotation.reshape(count, -1).T),
            _WORDS[told.behind.astype(int)],
            *told.known.T,
        ]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [_ANNOTATION % row for row in rows], stuff.scene


class _Told(NamedTuple):
    """What annotations say beside the box itself; ``known`` is -1 where it is not."""

    rects: Array  # (n, 12): tight, projected, truncated
    points: Array  # (n, 8, 3)
    valid: Array
    behind: Array
    known: Array  # (n, 5): visibility, truncation, segmentation_pts, lidar_pts, depth_error


def _told(rng: np.random.Generator, views: _Views, stuff: _Stuff) -> _Told:
    scene, count = stuff.scene, len(stuff.scene)
    points = corners(stuff.center, stuff.dimensions, stuff.rotation)
    behind = points[..., 2].min(axis=1) < NEAR_M
    intrinsics = np.zeros((len(views.counts), 3, 3))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = views.focal_px
    intrinsics[:, :2, 2], intrinsics[:, 2, 2] = views.center_px, 1.0
    before = np.where(behind[:, None, None], [0.0, 0.0, 1.0], points)
    pixels = project(before, intrinsics[scene][:, None])
    whole = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    cut = np.clip(whole, 0.0, np.tile(views.sizes_px, 2)[scene])
    shrunk = rng.uniform(0, 0.04, (count, 4)) * np.tile(cut[:, 2:] - cut[:, :2], 2) * [1, 1, -1, -1]
    by_scene = rng.random((len(views.counts), 5)) < [0.5, 0.5, 0.3, 0.5, 0.3]
    tight = np.where(rng.random((count, 1)) < 0.6, cut + shrunk, -1.0)
    rects = np.concatenate([tight, whole, cut], axis=1)
    rects[behind] = -1.0
    outside = 1 - _areas(cut) / np.maximum(_areas(whole), 1e-9)
    z = np.abs(stuff.center[:, 2])
    known = np.stack(
        [
            1 - rng.random(count) ** 3,
            np.clip(outside, 0, 1),
            rng.poisson(np.maximum(_areas(cut), 0) / 20),
            rng.poisson(8000 * stuff.dimensions[:, 1] * stuff.dimensions[:, 2] / z**2),
            rng.exponential(0.12, count),
        ],
        axis=1,
    )
    known = np.where(by_scene[scene], known, -1.0)
    return _Told(rects, points, rng.random(count) > 0.02, behind, known)


def _areas(rects: Array) -> Array:
    sides: Array = rects[:, 2:] - rects[:, :2]
    area: Array = sides.prod(axis=1)
    return area


def chunks(seed: int, scenes: int, boxes: tuple[int, int]) -> list[Chunk]:
    """All chunks of so many scenes with a number of boxes in that range."""
    return [
        Chunk(seed, number, min(SCENES_AT_A_TIME, scenes - begin), boxes)
        for number, begin in enumerate(range(0, scenes, SCENES_AT_A_TIME))
    ]


def categories() -> list[dict[str, Any]]:
    """The entry ``categories``."""
    return [{"id": id, "name": kind.name, "supercategory": ""} for id, kind in enumerate(KINDS)]


def omni3d_scenes(
    seed: int, scenes: int, boxes: tuple[int, int] = (2, 30)
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Random scenes: rooms and streets, each an image with its annotations, as ``write_omni3d``
    writes them.
    """
    for chunk in chunks(seed, scenes, boxes):
        texts, places = chunk.annotations()
        ends = np.searchsorted(places, np.arange(chunk.scenes), side="right").tolist()
        for image, begin, end in zip(chunk.images(), [0, *ends], ends, strict=False):
            yield json.loads(image), [json.loads(text) for text in texts[begin:end]]


def write_omni3d(
    path: Path, seed: int = 0, *, scenes: int, boxes: tuple[int, int] = (2, 30)
) -> Path:
    """Writes one JSON file of random scenes, a chunk at a time."""
    parts = chunks(seed, scenes, boxes)
    with path.open("w") as file:
        file.write('{"info":{"name":"random"},"images":[')
        for chunk in parts:
            file.write("," * (chunk.number > 0) + ",".join(chunk.images()))
        file.write(f'],"categories":{json.dumps(categories())},"annotations":[')
        opened = ""
        for chunk in parts:
            texts, _ = chunk.annotations()
            if texts:
                file.write(opened + ",".join(texts))
                opened = ","
        file.write("]}")
    return path


def small_scene(
    boxes: Sequence[Sequence[Any]],
    *,
    id: int = 1,
    width: int = 1000,
    height: int = 800,
    focal_px: float = 1000.0,
    **told: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An image and its annotations, exactly as told, through a pinhole in the image's middle.

    Args:
        boxes: each [category, x, y, z, w, h, l, yaw]; metres of the centre, radians about y.
        id: of the image.
        width, height: pixels.
        focal_px: along both axes.
        told: further keys of every annotation, such as ``visibility=0.2``.
    """
    image = {
        "id": id,
        "width": width,
        "height": height,
        "file_path": f"{id}.jpg",
        "K": [[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]],
    }
    return image, [
        {"id": id * 1000 + number, "image_id": id, **_annotation(box), **told}
        for number, box in enumerate(boxes)
    ]


def _annotation(box: Sequence[Any]) -> dict[str, Any]:
    category, *numbers, yaw = box
    rotation = yaw_rotation(np.array([float(yaw)]))
    center, dimensions = np.array([numbers[:3]], float), np.array([numbers[3:]], float)
    return {
        "category_name": category,
        "valid3D": True,
        "bbox2D_tight": [-1, -1, -1, -1],
        "bbox3D_cam": corners(center, dimensions, rotation)[0].tolist(),
        "center_cam": center[0].tolist(),
        "dimensions": dimensions[0].tolist(),
        "R_cam": rotation[0].tolist(),
        "behind_camera": False,
        "visibility": -1,
        "truncation": -1,
        "segmentation_pts": -1,
        "lidar_pts": -1,
        "depth_error": -1,
    }


def document(
    *scenes: tuple[dict[str, Any], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Scenes as one JSON document."""
    return {
        "images": [image for image, _ in scenes],
        "categories": [],
        "annotations": [each for _, annotations in scenes for each in annotations],
    }


def mean_iou(scene: Scene) -> float:
    """Of the source's 2D boxes with the projected, clipped 3D boxes."""
    parts = zip(*[(o.center, o.dimensions, o.rotation) for o in scene.objects], strict=True)
    points = corners(*map(np.array, parts))
    boxes = projected_boxes(points, np.broadcast_to(scene.intrinsics, (len(points), 3, 3)))
    boxes = boxes.clip(0, [scene.width, scene.height] * 2)
    given = np.array([o.bbox_px for o in scene.objects])
    low, high = np.maximum(boxes, given), np.minimum(boxes, given)
    shared = (high[:, 2:] - low[:, :2]).clip(0).prod(axis=1)
    areas = sum((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, given))
    return float((shared / (areas - shared)).mean())

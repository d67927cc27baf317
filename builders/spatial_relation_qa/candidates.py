"""Who can be the answer: the boxes of each class, around each anchor and before the camera."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vila2data.cuboids import Floats

from .batch import Bools, Ints
from .names import CAMERA

CLASS_UNCERTAIN = "class_uncertain"
TARGET_NOT_CLEAR = "target_not_clear"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Boxes of many scenes, as they are stored: ``n`` in ``s`` scenes, classes of a scene together.

    Attributes:
        starts: (s + 1,), where each scene's boxes begin; each has one at least.
        group: (n,), the class of each box, counted over all scenes from 0; a class of two scenes
            has two numbers.
        center, dimensions: (n, 3); rotation: (n, 3, 3).
        bbox: (n, 4) xyxy 0-1.
        focal_norm: (s,), focal length in image widths.
        clear: (n,), whether a question may be about the box.
        askable: (n,), whether its class may be asked for.
        close_below_m, far_above_m: (s,), depths.
    """

    starts: Ints
    group: Ints
    center: Floats
    dimensions: Floats
    rotation: Floats
    bbox: Floats
    focal_norm: Floats
    clear: Bools
    askable: Bools
    close_below_m: Floats
    far_above_m: Floats

    @property
    def scene_of(self) -> Ints:
        """(n,), the scene of each box."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Candidates:
    """(c,) candidates, those of a question together; each question begins at ``first``, (q,)."""

    anchor: Ints
    box: Ints
    first: Ints

    @property
    def question(self) -> Ints:
        """(c,), the question of each candidate."""
        counts = np.diff(np.append(self.first, len(self.box)))
        return np.repeat(np.arange(len(self.first)), counts)


def around_boxes(
    geometry: Geometry, anchors: Literal["box", "unique"]
) -> tuple[Candidates, Mapping[str, int]]:
    """The boxes of each class beside each anchor, for every question that can have an answer.

    Args:
        geometry: of all scenes.
        anchors: whether any clear box, or one that is alone in its class.

    Returns:
        The candidates, and how many questions were refused, by reason.
    """
    wanted = geometry.clear.copy()
    if anchors == "unique":
        alone = np.bincount(geometry.group) == 1
        wanted &= alone[geometry.group] & geometry.askable
    anchor = np.flatnonzero(wanted)
    scene = geometry.scene_of[anchor]
    low, high = _class_range(geometry)
    count = (high - low)[scene]
    group = np.repeat(low[scene], count) + _places(count)
    return _expanded(geometry, np.repeat(anchor, count), group)


def before_camera(geometry: Geometry) -> tuple[Candidates, Mapping[str, int]]:
    """The boxes of each class, as ``around_boxes``."""
    group = np.unique(geometry.group)
    return _expanded(geometry, np.full(len(group), CAMERA), group)


def _class_range(geometry: Geometry) -> tuple[Ints, Ints]:
    """The first class of each scene, and one past its last."""
    if not len(geometry.group):
        nothing = np.zeros(len(geometry.starts) - 1, np.int64)
        return nothing, nothing
    ends = geometry.starts[1:] - 1
    return geometry.group[geometry.starts[:-1]], geometry.group[ends] + 1


def _expanded(
    geometry: Geometry, anchor: Ints, group: Ints
) -> tuple[Candidates, Mapping[str, int]]:
    """The members of each group but the anchor, where one of them can be the answer."""
    sizes = np.bincount(geometry.group)
    begins = np.cumsum(sizes) - sizes
    clear = np.bincount(geometry.group, geometry.clear)
    own = (anchor != CAMERA) & (geometry.group[anchor] == group)
    uncertain = ~geometry.askable[begins[group]]
    unanswered = ~uncertain & (clear[group] - own <= 0)  # an anchor is clear itself
    alone = sizes[group] - own == 0  # nothing but the anchor: no question at all
    kept = ~(uncertain | unanswered | alone)
    refused = {
        CLASS_UNCERTAIN: int((uncertain & ~alone).sum()),
        TARGET_NOT_CLEAR: int((unanswered & ~alone).sum()),
    }
    anchor, group = anchor[kept], group[kept]
    count = sizes[group]
    box = np.repeat(begins[group], count) + _places(count)
    anchors = np.repeat(anchor, count)
    others = box != anchors
    first = np.cumsum(count - own[kept]) - (count - own[kept])
    return Candidates(anchors[others], box[others], first), refused


def _places(count: Ints) -> Ints:
    """0, 1, … for each of the counts, one after the other."""
    return np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)

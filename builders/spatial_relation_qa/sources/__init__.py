"""Readers of 3D boxes, one for each layout of files."""

from typing import Annotated

from pydantic import Field

from .dgp import Dgp
from .infos import Mmdet3d
from .kitti import Kitti, WaymoKitti
from .nuscenes import NuScenes
from .omni3d import Omni3D
from .scenes import SceneBuild
from .sunrgbd import SunRgbd

AnySource = Annotated[
    Dgp | Kitti | Mmdet3d | NuScenes | Omni3D | SceneBuild | SunRgbd | WaymoKitti,
    Field(discriminator="layout"),
]
"""A source in a recipe; ``layout`` tells which."""

"""The relations and the forms of answer, by name."""

from typing import Literal

Form = Literal["box", "phrase", "yes_no"]
FORMS: tuple[Form, ...] = ("box", "phrase", "yes_no")

OBJECT_OBJECT = "object_object"
OBJECT_CAMERA = "object_camera"
CAMERA = -1
"""The anchor of a relation to the camera."""

OBJECT_RELATIONS = ("closest", "in_front_of", "behind", "left_of", "right_of")
CAMERA_RELATIONS = ("close", "far", "closest", "farthest", "left", "right")

RELATIONS = tuple(
    f"{family}.{relation}"
    for family, relations in (
        (OBJECT_OBJECT, OBJECT_RELATIONS),
        (OBJECT_CAMERA, CAMERA_RELATIONS),
    )
    for relation in relations
)
"""``family.relation``, in the order in which code counts them."""

SIDES = frozenset({"left_of", "right_of", "left", "right"})
"""What mirroring the image turns into its opposite."""

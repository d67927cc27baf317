"""One scene: drawn until all of its objects can be seen, rendered, put into words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.errors import RunFailed
from vila2data.keyed import keyed_choice, keyed_hash, keyed_uniform
from vila2data.prompts import prompt

from .recipe import ScenesRecipe, Style
from .render import Seen, render
from .words import (
    Fact,
    Facts,
    Question,
    alt_text,
    detailed_reference,
    located_reference,
    questions,
    spatial_reference,
)
from .world import World, draw_world, intrinsics

PROMPTS: Mapping[Style, Sequence[str]] = {
    "detailed": ("long-v1", "long-v2", "long-v3"),
    "spatial": ("spatial-v1", "spatial-v2"),
    "located": (),
}
"""What stands before a reference in ``messages``."""
_REFERENCES: Mapping[Style, Callable[[Facts, np.random.Generator], str]] = {
    "detailed": detailed_reference,
    "spatial": spatial_reference,
    "located": lambda facts, rng: located_reference(facts),
}
TRAIN, TEST = "train", "test"

_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class Drawn:
    """A scene as it is stored.

    Attributes:
        row: the columns of ``vila2data.schema.SCENES``.
        image: PNG.
        refused: attempts that were drawn anew, by reason.
    """

    row: dict[str, Any]
    image: bytes
    refused: Mapping[str, int] = field(default_factory=dict)


def key_of(split: str, number: int) -> str:
    """The key of a scene, in the build and in the corpus."""
    return f"{split}-{number:07d}"


def draw_scene(recipe: ScenesRecipe, split: str, number: int) -> Drawn:
    """The scene of these keys; how many others there are does not matter.

    Raises:
        RunFailed: in no attempt can enough of every object be seen.
    """
    refused: dict[str, int] = {}
    objects = range(recipe.objects.min, recipe.objects.max + 1)
    for attempt in range(_ATTEMPTS):
        world = draw_world(recipe.seed, split, number, attempt, objects=objects)
        seen = render(world, recipe.image_side_px) if len(world.things) >= objects.start else None
        if seen is not None and seen.visibility.min() >= recipe.min_visibility:
            image = _png(seen.pixels)
            return Drawn(_row(recipe, split, number, world, seen, image), image, refused)
        reason = "no_room" if seen is None else "object_hidden"
        refused[reason] = refused.get(reason, 0) + 1
    told = ", ".join(f"{reason} {count}" for reason, count in refused.items())
    raise RunFailed(
        f"{key_of(split, number)}: none of {_ATTEMPTS} attempts could be used ({told}): ask for "
        "fewer objects (objects.min, objects.max), or for less of each (min_visibility)"
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _row(
    recipe: ScenesRecipe, split: str, number: int, world: World, seen: Seen, image: bytes
) -> dict[str, Any]:
    side = recipe.image_side_px
    shown = {
        "key": key_of(split, number),
        "image_sha256": sha256(image).hexdigest(),
        "width": side,
        "height": side,
        "intrinsics": _stored(intrinsics(side)),
        **_objects(world, seen),
        "floor": world.floor,
        "wall": world.wall,
    }
    return {**shown, **_texts(recipe, split, number, facts_of(shown))}


def _objects(world: World, seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """``objects`` and ``attributes``, from left to right."""
    order = np.argsort(seen.bbox[:, 0] + seen.bbox[:, 2], kind="stable").tolist()
    things = [world.things[n] for n in order]
    objects = [
        {
            "category": thing.shape,
            "bbox": _stored(seen.bbox[n]),
            "center": _stored(thing.center),
            "dimensions": _stored(thing.dimensions),
            "rotation": _stored(thing.rotation),
        }
        for n, thing in zip(order, things, strict=True)
    ]
    attributes = [
        {
            "shape": thing.shape,
            "color": thing.color,
            "size": thing.size,
            "material": thing.material,
            "visibility": _stored(seen.visibility[n])[0],
        }
        for n, thing in zip(order, things, strict=True)
    ]
    return {"objects": objects, "attributes": attributes}


def _stored(numbers: Any) -> list[float]:
    """Numbers as they are read back: texts must be true of those."""
    found: list[float] = np.asarray(numbers).astype(np.float32).ravel().tolist()
    return found


def facts_of(row: Mapping[str, Any]) -> Facts:
    """What may be said of a stored scene."""
    things = [
        Fact(
            shape=told["shape"],
            color=told["color"],
            size=told["size"],
            material=told["material"],
            center=tuple(place["center"]),
            bbox=tuple(place["bbox"]),
        )
        for place, told in zip(row["objects"], row["attributes"], strict=True)
    ]
    return Facts(things, row["floor"], row["wall"])


def _texts(recipe: ScenesRecipe, split: str, number: int, facts: Facts) -> dict[str, Any]:
    keys = (recipe.seed, split, number)

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng(keyed_hash(*keys, purpose))

    def has(what: str, share: float) -> bool:
        return split == TEST or keyed_uniform(*keys, f"has {what}") < share

    style, reference, asked = recipe.reference.style, None, list[Question]()
    if has("reference", recipe.reference.share):
        reference = _REFERENCES[style](facts, rng("reference"))
    if style != "located" and has("questions", recipe.questions.share):
        kept = recipe.questions.share_of
        asked = [q for q in questions(facts, rng("questions")) if has(q.kind, kept(q.kind))]
    turns = [(each.question, each.answer) for each in asked]
    if reference is not None and PROMPTS[style]:
        wanted = keyed_choice(dict.fromkeys(PROMPTS[style], 1.0), *keys, "prompt")
        turns.insert(0, (prompt(wanted).text, reference))
    return {
        "alt_text": alt_text(facts, rng("alt")),
        "reference": reference,
        "questions": [{"question": q.question, "answer": q.answer, "kind": q.kind} for q in asked],
        "messages": _messages(turns),
    }


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]] | None:
    """Questions and answers as a conversation; None without any."""
    messages = []
    for number, (question, answer) in enumerate(turns):
        content = question if number else f"{IMAGE_MARKER}\n{question}"
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": answer},
        ]
    return messages or None

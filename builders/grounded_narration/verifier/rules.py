"""What a row's own columns must satisfy, as SQL.

Each rule is told by what is wrong, and holds the condition that is true of a sound row; null counts
as broken. Its place among all rules is its bit in the number that a query makes of each row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vila2data.build.views import sql_list, sql_text
from vila2data.prompts import prompt

from ..recipe import BoxRules, PhraseRules, Questions, RowRules, Split

_IMAGE = "<image>\n"
_STATUSES = ("missing", "size_differs", "phash_differs")
_SUSPECT = (  # all that could be a role label or, beside "<", a special token or a box
    r"(?i)(?:user|assistant|system|human|gpt|bot)[^a-z0-9]*:"
    r"|\[/?(?:inst|system|tool|available|cls|sep|pad|mask|unk|img)|\[[0-9]"
)

Rules = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a recipe the rows of its build are measured by.

    Attributes:
        on_image: what to do with each ``image_status`` but ``ok``; None without a corpus.
    """

    boxes: BoxRules
    rows: RowRules
    phrases: PhraseRules
    questions: Questions
    split: Split
    on_image: Mapping[str, str] | None
    rejects_per_reason: int

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "Settings":
        """Those of a manifest's recipe.

        Raises:
            ValidationError: a block is none of a recipe.
        """
        images = recipe.get("images")
        return cls(
            BoxRules.model_validate(recipe.get("boxes", {})),
            RowRules.model_validate(recipe.get("rows", {})),
            PhraseRules.model_validate(recipe.get("phrases", {})),
            Questions.model_validate(recipe.get("questions", {})),
            Split.model_validate(recipe.get("split", {})),
            None if images is None else {s: images.get(s, "keep") for s in _STATUSES},
            int(recipe.get("rejects_per_reason", 1000)),
        )

    @property
    def in_pixels(self) -> bool:
        """Whether boxes are written in pixels, so that a row needs its size."""
        return self.questions.convention.steps is None

    @property
    def reasons(self) -> list[str]:
        """Why a row may have been rejected."""
        rows, images = self.rows, self.on_image or {}
        clip = rows.min_clip_similarity_vitb32, rows.min_clip_similarity_vitl14
        sometimes = {
            "low_clip_similarity": clip != (None, None),
            "malformed": self.boxes.malformed == "drop_image",
            "large_box": self.boxes.large == "drop_image",
            "size_unknown": self.in_pixels,
            **{f"image_{status}": then == "reject" for status, then in images.items()},
        }
        always = ("no_caption", "caption_too_long", "no_boxes", "no_box_left", "crowded")
        texts = ("box_text_in_caption", "no_phrase_left", "duplicate")
        return [*always, *texts, *(reason for reason, given in sometimes.items() if given)]


def row_rules(settings: Settings) -> Rules:
    """Those of every kept row."""
    least = settings.rows.max_caption_chars
    found = {
        "a caption is blank": (  # trimming is for the few that begin with white space
            "CASE WHEN caption > '!' THEN true "
            "ELSE trim(caption, ' ' || chr(9) || chr(10) || chr(13)) <> '' END"
        ),
        "a caption is longer than max_caption_chars": f"length(caption) <= {least}",
        "image_sha256 does not agree with image_status": (
            "(image_sha256 IS NULL) = (coalesce(image_status, 'missing') = 'missing')"
        ),
    }
    if settings.in_pixels:
        found["boxes are in pixels, but the size is missing"] = "width >= 1 AND height >= 1"
    for column in ("clip_similarity_vitb32", "clip_similarity_vitl14"):
        given = getattr(settings.rows, f"min_{column}")
        if given is not None:  # NaN is the greatest of all numbers here
            low = f"'{given}'::DOUBLE::FLOAT"
            found[f"{column} is below the recipe's"] = f"{column} >= {low} AND NOT isnan({column})"
    if settings.on_image is None:
        found["image_status is given without a corpus"] = "image_status IS NULL"
    else:
        kept = [status for status, then in settings.on_image.items() if then == "keep"]
        found["image_status is none that the recipe keeps"] = (
            f"image_status IN {sql_list(['ok', *kept])}"
        )
    return found


def broken(rules: Rules) -> str:
    """A number with a bit for each rule that a row breaks."""
    bits = [f"CASE WHEN {holds} THEN 0 ELSE {1 << n} END" for n, holds in enumerate(rules.values())]
    return " + ".join(bits)


def is_harmless(text: str) -> str:
    """Whether nothing in a text could be a special token, a role label or a box."""
    return (
        f"coalesce(NOT contains({text}, '<') AND CASE WHEN contains({text}, ':') "
        f"OR contains({text}, '[') THEN NOT regexp_matches({text}, '{_SUSPECT}') ELSE true END, "
        "false)"
    )


def is_one_turn(questions: Questions) -> str:
    """Whether a row's messages are one of the recipe's questions and ``grounded_caption``."""
    narration = {name: prompt(name).text for name, share in questions.narration.items() if share}
    asked = " ".join(
        f"WHEN {sql_text(name)} THEN {sql_text(_IMAGE + text)}" for name, text in narration.items()
    )
    turns = (
        "len(messages) = 2 AND len(question_ids) = 1",
        "messages[1].role = 'user' AND messages[2].role = 'assistant'",
        f"messages[1].content = CASE question_ids[1] {asked} END",
        "messages[2].content = grounded_caption",
    )
    return f"coalesce({' AND '.join(turns)}, false)"

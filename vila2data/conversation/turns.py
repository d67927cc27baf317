"""Composes the conversation of one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila2data.keyed import keyed_choice, keyed_hash
from vila2data.prompts import Prompt, Template, load_prompts

from .safety import neutralise

IMAGE_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a specialist wrote of an image."""

    task: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of one image; ``tasks`` and ``question_ids`` hold one entry per assistant turn."""

    messages: list[dict[str, str]]
    tasks: list[str]
    question_ids: list[str | None]


def questions_for(task: str) -> dict[str, Prompt]:
    """The shipped training questions of a specialist, by id."""
    return {p.id: p for p in load_prompts().values() if p.use == "question" and p.task == task}


def compose(
    key: str,
    *,
    original: str,
    caption: str,
    template: Template,
    answers: Sequence[Answer] = (),
    seed: int = 0,
) -> Conversation | None:
    """The training conversation of one image; None where there is neither text nor answer.

    The caption comes first, as the answer to the image alone (its task is ``general``, or
    ``original`` where there is no recaption). The specialists follow in an order, and with
    questions, drawn by keyed hash; one whose answer is missing has no turn. Every text is
    neutralised.

    Args:
        key: of the sample; with ``seed`` it decides order and questions.
        original: the image's own text, "" where there is none.
        caption: the newest recaption, "" where there is none.
        template: joins the two.
        answers: of the specialists, at most one per task.
        seed: of the data set.

    Source: VILA² section 2.2.1; the order of turns is hash-drawn where VILA's reader shuffled.
    """
    turns: list[tuple[str, str, str, str | None]] = []  # user, assistant, task, question id
    text = _caption_text(template, original=original, caption=caption)
    if text:
        turns.append(("", text, "general" if caption.strip() else "original", None))
    given = [answer for answer in answers if answer.text.strip()]
    for answer in sorted(given, key=lambda a: keyed_hash(seed, key, a.task, "turn order")):
        questions = questions_for(answer.task)
        chosen = keyed_choice(dict.fromkeys(questions, 1.0), seed, key, answer.task, "question")
        turns.append((questions[chosen].text, neutralise(answer.text).strip(), answer.task, chosen))
    if not turns:
        return None
    messages = []
    for number, (user, assistant, _, _) in enumerate(turns):
        marker = IMAGE_MARKER if number == 0 else ""
        asked = "\n".join(part for part in (marker, user) if part)
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": assistant},
        ]
    return Conversation(messages, [t[2] for t in turns], [t[3] for t in turns])


def _caption_text(template: Template, *, original: str, caption: str) -> str:
    safe: Mapping[str, str] = {"original": neutralise(original), "caption": neutralise(caption)}
    if not caption.strip():
        return safe[
            "original"
        ].strip()  # not yet recaptioned: the original alone, whatever the template
    return template.render(original=safe["original"], caption=safe["caption"])

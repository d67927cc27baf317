"""How the exchanges of a conversation are written as turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from vila2data.boxes import CONVENTIONS
from vila2data.conversation import neutralise
from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.keyed import keyed_choice
from vila2data.prompts import load_prompts

from .annotation import Box, Exchange
from .source import Rules

MAX_CHOICES = len(ascii_uppercase)

_BOXES = CONVENTIONS["llava"]
_REGION_FORMS = {"describe": 1.0, "locate": 1.0}
_DESCRIBE = "Please provide a short description for this region: {}."
_LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {}"

Size = tuple[int, int]

CountTokens = Callable[[str], int]
"""How many tokens a text has."""

TOKENS_PER_MESSAGE = 4
"""What a chat template adds to each."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An exchange of a conversation.

    Attributes:
        number: of the exchange in its conversation, before any was left out.
        exchange: as the source has it.
    """

    number: int
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Worded:
    """Turns, user and assistant in turn, all text of which is safe.

    Attributes:
        changed: what the source wrote, by the number of the turn that was made safe.
        tokens: of all of them.
    """

    turns: list[str]
    changed: dict[str, str]
    tokens: int


@dataclass(frozen=True, slots=True)
class Wording:
    """How a source's conversations are worded.

    Attributes:
        rules: of the source.
        is_worded: its questions are as they shall be asked, and hold the images' markers.
        draw: seed and source, of every draw.
        count_tokens: of a text.
    """

    rules: Rules
    is_worded: bool
    draw: tuple[int, str]
    count_tokens: CountTokens

    def row(
        self, name: str, asked: Sequence[Asked], sizes_px: Sequence[Size], rotation: int
    ) -> Worded:
        """The turns of a row; none where its first exchange has too many tokens.

        Args:
            name: of the conversation.
            asked: what is asked in this row.
            sizes_px: width and height of each image.
            rotation: of the choices.
        """
        turns: list[str] = []
        changed: dict[str, str] = {}
        tokens = 0
        for place, one in enumerate(asked):
            question, answer = self._exchange(name, one, sizes_px, rotation, is_first=place == 0)
            markers = len(sizes_px) if place == 0 else 0
            marked = self._marked(question, markers, is_begin=one.number == 0)
            pair = [marked, neutralise(answer)]
            length = sum(self.count_tokens(text) + TOKENS_PER_MESSAGE for text in pair)
            if self.rules.max_tokens is not None and tokens + length > self.rules.max_tokens:
                break
            if self.is_worded:
                written = (question, answer)
                changed |= {
                    str(len(turns) + n): text
                    for n, text in enumerate(written)
                    if (n == 0 and question != pair[0]) or (n == 1 and answer != pair[1])
                }
            turns += pair
            tokens += length
        return Worded(turns, changed, tokens)

    def _marked(self, question: str, images: int, *, is_begin: bool) -> str:
        """The question with markers: where it has them, if it begins its conversation."""
        if self.is_worded and is_begin and question.count(IMAGE_MARKER) == images:
            return IMAGE_MARKER.join(map(neutralise, question.split(IMAGE_MARKER)))
        return f"{IMAGE_MARKER}\n" * images + neutralise(question)

    def _exchange(
        self,
        name: str,
        asked: Asked,
        sizes_px: Sequence[Size],
        rotation: int,
        *,
        is_first: bool,
    ) -> tuple[str, str]:
        exchange = asked.exchange
        if self.is_worded:
            return exchange.question, exchange.answer
        if exchange.box is not None:
            box = exchange.box
            if self.rules.boxes_in == "square" and sizes_px:
                box = in_square(box, sizes_px[0])
            return self._region(name, asked.number, box, exchange.answer)
        form = None if self.rules.form is None else load_prompts()[self.rules.form].text
        lines, answer = [_without(form, exchange.question)], exchange.answer
        if exchange.choices:
            shift = rotation % len(exchange.choices)
            choices = exchange.choices[shift:] + exchange.choices[:shift]
            letters = ascii_uppercase[: len(choices)]
            shown = (choice.replace("\n", " ") for choice in choices)
            lines += [f"{a}. {choice}" for a, choice in zip(letters, shown, strict=True)]
            answer = letters[choices.index(exchange.answer)]
        if form is not None and (is_first or self.rules.form_in == "every" or not lines[0]):
            lines.append(form)
        return "\n".join(line for line in lines if line), answer

    def _region(self, name: str, number: int, box: Sequence[float], text: str) -> tuple[str, str]:
        sentence = text if text.endswith(".") else f"{text}."
        written = _BOXES.render(box)
        form = keyed_choice(_REGION_FORMS, *self.draw, name, "region", number)
        if form == "describe":
            return _DESCRIBE.format(written), sentence[:1].upper() + sentence[1:]
        return _LOCATE.format(sentence), written


def _without(form: str | None, question: str) -> str:
    """The question without the form sentence, which some sources have already."""
    if form is None or form not in question:
        return question
    return "\n".join(line for line in question.split("\n") if line.strip() != form)


def in_square(box: Box, size_px: Size) -> Box:
    """A box, xyxy 0-1 of an image, as 0-1 of the image padded to a square around its centre.

    Example:
        >>> in_square((0.0, 0.0, 1.0, 1.0), (400, 200))
        (0.0, 0.25, 1.0, 0.75)
    """
    side = max(size_px)
    x_scale, y_scale = (length / side for length in size_px)
    x_pad, y_pad = (1 - x_scale) / 2, (1 - y_scale) / 2
    left, top, right, bottom = box
    return (
        left * x_scale + x_pad,
        top * y_scale + y_pad,
        right * x_scale + x_pad,
        bottom * y_scale + y_pad,
    )


def estimated_tokens(text: str) -> int:
    """A quarter of the bytes, rounded up, where no tokenizer is given."""
    return -(-len(text.encode()) // 4)

"""From turns to token ids, and which of them are trained on.

``plain`` is how captions are trained on: the caption follows the image as text, then each question
of a specialist, not trained on, and its answer; one end token closes all of it. ``chat`` is the
model's own chat template, trained on the answers and on the end token of each.

Source: VILA² section 2.2.1 and VILA's reader of recaptions, which moves the end token to the end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vila2data.conversation.safety import neutralise
from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.errors import BadInput

from .rows import Passage, Row
from .spec import Form

Piece = tuple[str, bool]
"""Text, and whether it is trained on."""

Ids = npt.NDArray[np.int32]

Shape = tuple[tuple[str, tuple[bool, ...]], ...]
"""Of each turn its role, and of each of its parts whether it is an image."""

_SLOT = re.compile("\ue000(\\d+)\ue001")  # stands for a text while a template is rendered
_PROBE = [
    {"role": "user", "content": IMAGE_MARKER + '\nWhat is "in" the <middle> & why?'},
    {"role": "assistant", "content": "A red box.\n\n  It's 日本's."},
    {"role": "user", "content": "And left of it?"},
    {"role": "assistant", "content": "Nothing."},
]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as token ids, each image still one token.

    Attributes:
        input_ids: (n,) int32.
        trained: (n,) bool; the first token never is, since nothing predicts it.
    """

    input_ids: Ids
    trained: npt.NDArray[np.bool_]


class Refused(Exception):
    """A row cannot be encoded; carries the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Encoder:
    """Encodes rows for one model's processor."""

    def __init__(self, processor: Any) -> None:
        """Takes the processor's tokenizer, image token and chat template.

        Raises:
            BadInput: the tokenizer has no end token or is a slow one.
        """
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token = str(processor.image_token)
        self.image_token_id = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        if not self.tokenizer.is_fast:
            raise BadInput(
                "model: its tokenizer is a slow one; a fast one (tokenizer.json) is needed"
            )
        if self.tokenizer.eos_token is None:
            raise BadInput("model: its tokenizer names no end token")
        self._shapes: dict[Shape, list[str] | None] = {}
        defaults = getattr(processor, "valid_processor_kwargs", None)
        texts = getattr(defaults, "_defaults", {}).get("text_kwargs", {})
        self._adds_special = bool(texts.get("add_special_tokens", True))

    def encode(self, rows: Sequence[Row], form: Form) -> list[Encoded | str]:
        """Each row's sample, or the reason why it is none.

        Reasons: ``turns`` (no turns, or not user and assistant in turn), ``image_markers`` (not as
        many as images), ``special_token`` (a text holds one of the tokenizer's), ``text_missing``
        (nothing to train on), ``chat_template`` (it cannot render such a conversation).
        """
        results: list[Encoded | str] = []
        pieces: list[list[Piece]] = []
        for row in rows:
            try:
                pieces.append(self.pieces(row, form))
                results.append("")
            except Refused as refused:
                results.append(refused.reason)
        encoded = iter(self._tokenised(pieces))
        for number, (row, result) in enumerate(zip(rows, results, strict=True)):
            if result == "":
                results[number] = self._checked(next(encoded), len(row.images))
        return results

    def pieces(self, row: Row, form: Form) -> list[Piece]:
        """The text of a row, cut where training starts and stops.

        Raises:
            Refused: with one of ``encode``'s reasons.
        """
        if row.passages:
            return self._document(row.passages)
        turns = [(m["role"], m["content"]) for m in row.messages]
        if any(content is None for _, content in turns):
            raise Refused("turns")
        roles = [role for role, _ in turns]
        system = roles[:1] == ["system"]
        if (
            roles[system:] != ["user", "assistant"] * (len(turns[system:]) // 2)
            or not turns[system:]
        ):
            raise Refused("turns")
        if sum(t.count(IMAGE_MARKER) for r, t in turns if r == "user") != len(row.images):
            raise Refused("image_markers")
        if form == "plain":
            return self._plain(turns[system:])
        return self._chat(turns)

    def _plain(self, turns: Sequence[tuple[str, str]]) -> list[Piece]:
        """Image, newline, caption; for each further turn newline, question, newline, answer."""
        pieces: list[Piece] = []
        for position in range(0, len(turns), 2):
            asked, answer = turns[position][1], self._answer(turns[position + 1][1])
            parts = [self.image_token if p is None else p for p in self._parts(asked)]
            before = "\n" if pieces else ""
            lead = before + "".join(f"{part}\n" for part in parts)
            pieces += [(lead, False), (answer, True)]
        return [*pieces, (self._end, True)]

    def _document(self, passages: Sequence[Passage]) -> list[Piece]:
        """Images, each with a newline, before the sentence they belong to; spaces between."""
        pieces: list[Piece] = []
        for passage in passages:
            images, text = f"{self.image_token}\n" * passage.images, self._safe(passage.text)
            if images or text:
                lead = (" " if pieces and not images else "\n" if pieces else "") + images
                pieces += [(lead, not images), (text, True)]
        return [*pieces, (self._end, True)]

    def _chat(self, turns: Sequence[tuple[str, str]]) -> list[Piece]:
        """The chat template, rendered once for each shape of conversation."""
        texts: list[str] = []
        shape: list[tuple[str, tuple[bool, ...]]] = []
        for role, content in turns:
            if role == "assistant":
                parts: list[str | None] = [self._answer(content)]
            else:
                parts = self._parts(content)
            texts += [part for part in parts if part is not None]
            shape.append((role, tuple(part is None for part in parts)))
        between = self._between(tuple(shape))
        answers = self._answers(tuple(shape))
        pieces: list[Piece] = []
        for number, gap in enumerate(between):
            end = self._end_of_answer(gap) if number - 1 in answers else 0
            start = self._start_of_answer(gap) if number in answers else len(gap)
            pieces += [(gap[:end], True), (gap[end:start], False), (gap[start:], True)]
            pieces += [(text, number in answers) for text in texts[number : number + 1]]
        return pieces

    def _answers(self, shape: Shape) -> set[int]:
        """Which of the texts are answers."""
        roles = [role for role, kinds in shape for is_image in kinds if not is_image]
        return {number for number, role in enumerate(roles) if role == "assistant"}

    def _between(self, shape: Shape) -> list[str]:
        """What the template writes before, between and after the texts of such a conversation."""
        if shape not in self._shapes:
            self._shapes[shape] = self._rendered(shape)
        found = self._shapes[shape]
        if found is None:
            raise Refused("chat_template")
        return found

    def _rendered(self, shape: Shape) -> list[str] | None:
        """As ``_between``; None where the template refuses, or does not write each text once and
        in order.
        """
        count = 0
        messages = []
        for role, kinds in shape:
            content: list[dict[str, str]] = []
            for is_image in kinds:
                if is_image:
                    content.append({"type": "image"})
                else:
                    content.append({"type": "text", "text": f"\ue000{count}\ue001"})
                    count += 1
            messages.append({"role": role, "content": content})
        try:
            found = _SLOT.split(self.render(messages))
        except BadInput:
            return None
        return found[::2] if found[1::2] == [str(n) for n in range(count)] else None

    def render(self, messages: Sequence[Mapping[str, Any]], *, ask: bool = False) -> str:
        """Messages with content parts through the chat template; with ``ask``, up to where the
        model goes on.

        Raises:
            BadInput: there is no template, or it cannot render them.
        """
        if not self.processor.chat_template:
            raise BadInput("model: has no chat template, which sources of form chat need")
        try:
            text: str = self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            raise BadInput(f"model: its chat template cannot be rendered: {told}") from error
        return text

    def check_template(self) -> None:
        """Checks that the chat template can be trained on.

        Raises:
            BadInput: there is none; it fails, changes the texts, or does not end an answer with
                the end token.
        """
        row = Row("probe", [None], _PROBE)
        direct = self.render(
            [{"role": m["role"], "content": self._content(m["content"])} for m in _PROBE]
        )
        try:
            filled = "".join(text for text, _ in self.pieces(row, "chat"))
        except Refused as refused:
            raise BadInput(
                "model: its chat template leaves out, repeats or reorders turns; give another"
            ) from refused
        if direct != filled:
            raise BadInput("model: its chat template changes what the turns say; give another")

    def _content(self, text: str) -> list[dict[str, str]]:
        return [
            {"type": "image"} if part is None else {"type": "text", "text": part}
            for part in self._parts(text)
        ]

    def _end_of_answer(self, following: str) -> int:
        """How much of what the template writes after an answer is trained on: up to the end
        token.
        """
        before, found, _ = following.partition(self._end)
        if not found or before.strip():
            raise BadInput(
                f"model: its chat template does not end an answer with {self._end}, so a model "
                "trained with it would not learn to stop; give another chat template"
            )
        return len(before) + len(self._end)

    def _start_of_answer(self, leading: str) -> int:
        """From where on what the template writes before an answer is trained on: a model that is
        asked begins right after the request, be it with a blank.
        """
        at = leading.rfind(self._request)
        return at + len(self._request) if at >= 0 else len(leading)

    @cached_property
    def _request(self) -> str:
        """What the template writes to ask for an answer."""
        question = [{"role": "user", "content": self._content("What?")}]
        told = self.render(question)
        asked = self.render(question, ask=True)
        return asked.removeprefix(told) if asked.startswith(told) else ""

    @property
    def _end(self) -> str:
        return str(self.tokenizer.eos_token)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Every token of the tokenizer that acts rather than says."""
        acting = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        longest_first = sorted({*acting, self.image_token}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def _safe(self, text: str) -> str:
        """A text that cannot act.

        Raises:
            Refused: it holds a special token that only this tokenizer knows.
        """
        inert = neutralise(text).strip()
        if self._special.search(inert):
            raise Refused("special_token")
        return inert

    def _answer(self, text: str) -> str:
        safe = self._safe(text)
        if not safe:
            raise Refused("text_missing")
        return safe

    def _parts(self, content: str) -> list[str | None]:
        """Texts and, as None, images of a user's turn."""
        parts: list[str | None] = []
        for number, text in enumerate(content.split(IMAGE_MARKER)):
            if number:
                parts.append(None)
            if safe := self._safe(text):
                parts.append(safe)
        return parts

    def _tokenised(self, samples: Sequence[Sequence[Piece]]) -> list[Encoded]:
        if not samples:
            return []
        texts = ["".join(text for text, _ in pieces) for pieces in samples]
        # A template that writes the start token itself must not get a second one.
        start = self.tokenizer.bos_token
        adds = [self._adds_special and not (start and t.startswith(start)) for t in texts]
        encoded: list[Encoded | None] = [None] * len(texts)
        for special in (True, False):
            chosen = [n for n, adding in enumerate(adds) if adding == special]
            if chosen:
                batch = self.tokenizer(
                    [texts[n] for n in chosen],
                    add_special_tokens=special,
                    return_offsets_mapping=True,
                    return_attention_mask=False,
                    verbose=False,
                )
                for position, n in enumerate(chosen):
                    ids = np.asarray(batch["input_ids"][position], np.int32)  # (n,)
                    offsets = np.asarray(batch["offset_mapping"][position], np.int64).reshape(-1, 2)
                    trained, length = _trained(offsets, samples[n])
                    encoded[n] = Encoded(ids[:length], trained[:length])
        return [one for one in encoded if one is not None]

    def _checked(self, encoded: Encoded, images: int) -> Encoded | str:
        if int((encoded.input_ids == self.image_token_id).sum()) != images:
            return "special_token"
        trained = encoded.trained & (encoded.input_ids != self.image_token_id)
        trained[:1] = False
        # The end token alone is no text to learn.
        return Encoded(encoded.input_ids, trained) if trained.sum() > 1 else "text_missing"


def _trained(
    offsets: npt.NDArray[np.int64], pieces: Sequence[Piece]
) -> tuple[npt.NDArray[np.bool_], int]:
    """(n,) which tokens overlap a trained piece, and how many tokens there are up to the last one
    of the text: a tokenizer may add an end token of its own behind it.
    """
    flags = np.repeat([t for _, t in pieces], [len(text) for text, _ in pieces])
    before = np.concatenate([[0], np.cumsum(flags)])  # trained characters before each character
    stops = offsets[:, 1]
    # Some tokenizers leave out of a token's offsets the blanks that it stands for.
    starts = np.minimum(offsets[:, 0], np.concatenate([[0], stops[:-1]]))
    of_text = np.flatnonzero(stops > starts)
    return before[stops] > before[starts], int(of_text[-1]) + 1 if len(of_text) else 0

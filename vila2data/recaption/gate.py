"""The gate: what makes a generated caption unfit, rule by rule."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from vila2data.conversation import find_special
from vila2data.engines import Result
from vila2data.prompts import Prompt
from vila2data.stats.signals import Signals

_MIN_WORDS_FOR_LOOP = 12  # below this a repeated pair of words is chance
_REFUSAL = re.compile(
    r" (?:i(?: m| am) (?:sorry|unable)"
    r"|i (?:cannot|can t|can not|do not|don t) (?:see|view|provide|assist|help|describe)"
    r"|as an ai|as a language model"
    r"|(?:no|not) (?:image|picture) (?:was |is |has been )?(?:provided|attached|visible)"
    r"|unable to (?:see|view|process|analy[sz]e) (?:the|this|any|an) (?:image|picture)) "
)  # in the form of _plain
_REFUSAL_WITHIN_CHARS = 200
_BLANKS = dict.fromkeys(map(ord, string.punctuation.replace("_", "") + "‘’“”«»‹›–—…·•"), " ")


class GateRules(BaseModel):
    """Thresholds of the gate; each is written into the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_repeated_ngram_share: float = Field(
        0.3, gt=0, le=1, description="a longer repeated run of words, as a share of all, is a loop"
    )
    min_distinct_ratio: float = Field(
        0.2, ge=0, le=1, description="fewer distinct words, as a share of all, are a loop"
    )
    echo_words: int = Field(
        8, ge=3, description="this many words of the prompt in a row, or all of it, are an echo"
    )
    refusals: bool = Field(True, description="reject captions that open with a refusal")
    special_tokens: bool = Field(True, description="reject captions that hold special tokens")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a caption was rejected."""

    reason: str
    detail: str = ""


def judge(result: Result, signals: Signals, prompt: Prompt, rules: GateRules) -> Verdict | None:
    """The first rule that ``result`` breaks, None where it passes.

    In order: ``engine_error`` or the engine's own reason, ``empty``, ``special_token``, ``length``
    (cut off by the token limit), ``repetition``, ``prompt_echo``, ``refusal``.
    """
    if result.finish_reason == "error":
        return Verdict(result.error_reason or "engine_error", result.error_detail)
    if not any(c.isalnum() for c in result.text):
        return Verdict("empty")
    if rules.special_tokens and (token := find_special(result.text)):
        return Verdict("special_token", token)
    if result.finish_reason == "length":
        return Verdict("length", f"{result.num_tokens} tokens")
    return _loop(result, signals, rules) or _parrot(result.text, prompt, rules)


def _loop(result: Result, signals: Signals, rules: GateRules) -> Verdict | None:
    if result.finish_reason == "repetition":
        return Verdict("repetition", "stopped by the engine")
    if signals.num_words < _MIN_WORDS_FOR_LOOP:
        return None
    if signals.repeated_ngram_share > rules.max_repeated_ngram_share:
        return Verdict("repetition", f"repeated_ngram_share {signals.repeated_ngram_share:.2f}")
    if signals.distinct_ratio < rules.min_distinct_ratio:
        return Verdict("repetition", f"distinct_ratio {signals.distinct_ratio:.2f}")
    return None


def _parrot(text: str, prompt: Prompt, rules: GateRules) -> Verdict | None:
    plain = _plain(text)
    for needle in _echoes(prompt.text, prompt.echo_phrases, rules.echo_words):
        if needle in plain:
            return Verdict("prompt_echo", needle.strip())
    if rules.refusals and (found := _REFUSAL.search(plain, 0, _REFUSAL_WITHIN_CHARS)):
        return Verdict("refusal", found.group().strip())
    return None


def _plain(text: str) -> str:
    """Lower-case words, each between single blanks, without punctuation."""
    return f" {' '.join(text.lower().translate(_BLANKS).split())} "


@lru_cache(maxsize=256)
def _echoes(prompt: str, phrases: Sequence[str], echo_words: int) -> tuple[str, ...]:
    """What must not stand in a caption, in the form of ``_plain``."""
    words = _plain(prompt).split()
    count = min(echo_words, len(words))
    runs = [" ".join(words[i : i + count]) for i in range(len(words) - count + 1)]
    return tuple(f" {run} " for run in runs if run) + tuple(_plain(phrase) for phrase in phrases)

"""Each rule of the gate at and around its threshold, and on the paper's own captions."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vila2data.engines import Result
from vila2data.engines.protocol import Author
from vila2data.prompts import load_prompts, prompt
from vila2data.recaption.gate import GateRules, Verdict, judge
from vila2data.stats.signals import signals_of

NOBODY = Author("model", None, "engine 1")
GOOD = (
    "A man in a black jacket rides a white bicycle down a busy street. Behind him people walk past "
    "brick buildings, and a yellow flag hangs over a shop door."
)


def verdict(
    text: str, *, prompt_id: str = "long-v2", finish: Any = "stop", rules: GateRules | None = None
) -> Verdict | None:
    result = Result(0, text, finish, NOBODY, num_tokens=77)
    return judge(result, signals_of(text), prompt(prompt_id), rules or GateRules())


def reason(text: str, **options: Any) -> str | None:
    found = verdict(text, **options)
    return found.reason if found else None


def test_good_caption_passes() -> None:
    assert verdict(GOOD) is None


def test_failed_request_keeps_the_reason_of_its_engine() -> None:
    failed = Result(0, "", "error", NOBODY, error_reason="timeout", error_detail="after 60 s")
    assert judge(failed, signals_of(""), prompt("simple"), GateRules()) == Verdict(
        "timeout", "after 60 s"
    )
    nameless = replace(failed, error_reason="", error_detail="")
    assert judge(nameless, signals_of(""), prompt("simple"), GateRules()) == Verdict("engine_error")


@pytest.mark.parametrize("text", ["", " \n", "...", "—", "<>", "\u200b"])
def test_text_without_a_letter_or_digit_is_empty(text: str) -> None:
    assert reason(text) == "empty"


@pytest.mark.parametrize("text", ["7", "Ü", "猫"])
def test_one_letter_or_digit_is_a_text(text: str) -> None:
    assert reason(text) is None


def test_length_stop_is_rejected_whatever_was_written() -> None:
    assert verdict(GOOD, finish="length") == Verdict("length", "77 tokens")


def test_repetition_stop_of_the_engine_is_rejected() -> None:
    assert verdict(GOOD, finish="repetition") == Verdict("repetition", "stopped by the engine")


@pytest.mark.parametrize(("token"), ["<image>", "<|im_end|>", "</s>", "[INST]", "ASSISTANT:"])
def test_special_token_is_rejected_and_named_unless_the_rule_is_off(token: str) -> None:
    assert verdict(f"{GOOD} {token}") == Verdict("special_token", token)
    assert reason(f"{GOOD} {token}", rules=GateRules(special_tokens=False)) is None


def numbered(count: int) -> list[str]:
    return [f"word{n}" for n in range(count)]


@pytest.mark.parametrize(("repeated", "expected"), [(3, None), (4, "repetition")])
def test_repeated_run_is_a_loop_from_just_above_its_share(
    repeated: int, expected: str | None
) -> None:
    words = numbered(10 - repeated)
    text = " ".join([*words, *words[:repeated], *numbered(20)[10:]])
    assert signals_of(text).repeated_ngram_share == repeated / 20
    rules = GateRules(max_repeated_ngram_share=3 / 20)
    assert reason(text, rules=rules) == expected


@pytest.mark.parametrize(("distinct", "expected"), [(4, None), (3, "repetition")])
def test_few_distinct_words_are_a_loop_from_just_below_their_share(
    distinct: int, expected: str | None
) -> None:
    words = numbered(distinct)
    text = " ".join(words[n * n % distinct] if n >= distinct else words[n] for n in range(20))
    assert signals_of(text).distinct_ratio == distinct / 20
    assert reason(text, rules=GateRules(max_repeated_ngram_share=1)) == expected


def test_short_captions_may_repeat_themselves() -> None:
    assert reason("a cat " * 5 + "a") is None
    assert reason("a cat " * 6) == "repetition"


@pytest.mark.parametrize("id", [p.id for p in load_prompts().values() if p.use == "caption"])
def test_caption_that_repeats_its_prompt_is_an_echo(id: str) -> None:
    asked = load_prompts()[id].text
    assert reason(f"{GOOD} {asked}", prompt_id=id) == "prompt_echo"
    assert reason(asked.upper().replace(" ", "\n"), prompt_id=id) == "prompt_echo"


@pytest.mark.parametrize(("words", "expected"), [(7, None), (8, "prompt_echo")])
def test_run_of_the_prompt_is_an_echo_from_eight_words(words: int, expected: str | None) -> None:
    run = " ".join(prompt("long-v2").text.split()[2 : 2 + words])
    assert reason(f"{GOOD} Here {run}, as said.") == expected
    assert reason(f"{GOOD} Here {run}.", rules=GateRules(echo_words=words)) == "prompt_echo"


def test_phrase_that_shows_an_echo_is_rejected() -> None:
    text = "There is no imaginary content in this picture of a dog on a beach."
    assert verdict(text, prompt_id="long-v3") == Verdict("prompt_echo", "imaginary content")
    assert reason(text, prompt_id="long-v2") is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot help with that.",
        "I’m sorry, but this does not work.",
        "I am unable to see it.",
        "I can't see any picture here.",
        "I cannot describe real people.",
        "I don't see an image.",
        "As an AI, I have no eyes.",
        "Unfortunately, as a language model I only read.",
        "There is no image provided.",
        "No picture was attached to the question.",
        "The model is unable to process this image.",
    ],
)
def test_refusal_is_rejected_unless_the_rule_is_off(text: str) -> None:
    assert reason(text) == "refusal"
    assert reason(text, rules=GateRules(refusals=False)) is None


@pytest.mark.parametrize(
    "text",
    [
        "A sign reads 'sorry, we are closed'.",
        "A man is unable to lift the box.",
        "The image shows no people.",
        "The AI logo stands on a wall.",
        GOOD + " " + GOOD.replace("man", "woman") + " The sign says I'm sorry.",
    ],
)
def test_words_of_a_refusal_within_a_caption_are_none(text: str) -> None:
    assert reason(text, rules=GateRules(max_repeated_ngram_share=1)) is None


def test_rules_are_asked_in_their_order() -> None:
    looping = "<image> " + "a b " * 20
    assert reason(looping, finish="length") == "special_token"
    assert reason("a b " * 20, finish="length") == "length"


@pytest.mark.parametrize(
    "wrong",
    [{"max_repeated_ngram_share": 0}, {"min_distinct_ratio": 2}, {"echo_words": 2}, {"typo": 1}],
)
def test_rules_beyond_their_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GateRules(**wrong)


def captions_of(paper: Path, round: int) -> list[str]:
    text = paper.read_text(encoding="utf-8")
    found = re.findall(
        rf"Self-Augmented Round-{round}: (.+?)(?= Specialist-Augmented|\n| -----)", text
    )
    return [caption.replace("**", "") for caption in found]


@pytest.fixture
def paper(shared_data: Path) -> Path:
    (found,) = (shared_data.parent / "papers").glob("000_*.txt")
    return found


@pytest.mark.shared
def test_the_papers_good_captions_pass(paper: Path) -> None:
    captions = captions_of(paper, 3)
    assert len(captions) >= 2
    for id in ("long-v1", "long-v2", "long-v3"):
        assert [reason(caption, prompt_id=id) for caption in captions] == [None] * len(captions)


@pytest.mark.shared
def test_the_papers_caption_that_ends_in_the_middle_is_rejected(paper: Path) -> None:
    cut = next(c for c in captions_of(paper, 1) if c.endswith("the old and the new, the"))
    assert reason(cut, finish="length") == "length"
    assert reason(cut) is None

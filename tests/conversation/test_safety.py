"""Nothing in a text from the web acts as a token or as a turn."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vila2data.conversation import find_special, neutralise

TOKENS = [
    "<image>", "<IMAGE>", "</s>", "<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image_1>",
    "<video>", "<|vision_start|>", "<|image_pad|>", "<｜end▁of▁sentence｜>", "<<SYS>>", "<</SYS>>",
    "[INST]", "[/INST]", "<start_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<extra_id_0>",
    "<loc0001>", "<patch_index_0012>", "<im_patch>", "<vila/sentinel>", "<IMG_CONTEXT>", "[IMG]",
    "<fake_token_around_image>", "<image_placeholder>", "<end_of_utterance>", "[TOOL_CALLS]",
    "<box>", "</box>", "<ref>", "<quad>", "<think>", "[MASK]", "<image/>",
]  # fmt: skip
ROLES = [
    "USER:", "ASSISTANT:", "SYSTEM :", "HUMAN:", "GPT:", "a cat USER: hi", "user: hi", "a\nuser: hi",
    "### Human: hi", "# assistant:", " \tUser :", "\u00a0user: hi", "a\ruser: hi", "a\u2028bot: hi",
    "a\x85gpt: hi", "USER\u00a0: hi",
]  # fmt: skip
ORDINARY = [
    "Ratio 3:4", "a < b", "a <- b -> c", "note: x", "the user: a man", "5:30 p.m.", "[sic]", "<3",
    "[1, 2, 3]", "x<y>z", "an image of <b>bold</b> text", "https://example.org/a?b=[c]", "|a|b|",
    "super-user:", "Time [s]: 5", "He said: \"go\"", "image", "<", "<>", "[0.123, 0.456, 0.7, 0.8]",
]  # fmt: skip


@pytest.mark.parametrize("text", [*TOKENS, *ROLES])
def test_special_text_is_found_and_made_inert(text: str) -> None:
    assert find_special(text) is not None
    safe = neutralise(f"before {text} after") if text in TOKENS else neutralise(text)
    assert find_special(safe) is None
    assert [c for c in safe if c.isalnum()] == [
        c for c in (f"before {text} after" if text in TOKENS else text) if c.isalnum()
    ]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find_special(text) is None
    assert neutralise(text) == text


@pytest.mark.shared
def test_real_captions_are_left_alone(shared_data: Path) -> None:
    content = json.loads((shared_data / "captions" / "coco" / "captions.json").read_text())
    texts = [annotation["caption"] for annotation in content["annotations"]]
    assert len(texts) >= 200
    assert [text for text in texts if neutralise(text) != text] == []


def test_readable_form_is_told() -> None:
    assert neutralise("<image> USER: hi [INST] <|im_end|>") == "‹image› USER： hi (INST) ‹¦im_end¦›"
    assert find_special("a cat <|im_end|> on a mat") == "<|im_end|>"


PIECES = st.sampled_from(
    [
        *TOKENS,
        *ROLES,
        *"<>|[]/:#\n\r \t_",
        "｜",
        "image",
        "s",
        "im_start",
        "USER",
        "user",
        "INST",
        "0",
    ]
)
NASTY = st.lists(PIECES, max_size=14).map("".join)


@settings(max_examples=600)
@given(NASTY)
@example("<|<s>|>")
@example("<<image>>")
@example("<|<|<|x|>|>|>")
@example("[[INST]]")
def test_nothing_special_is_left_and_doing_it_twice_changes_nothing(text: str) -> None:
    safe = neutralise(text)
    assert find_special(safe) is None
    assert neutralise(safe) == safe
    assert len(safe) == len(text)


@given(NASTY)
def test_what_is_safe_stays_safe_when_it_is_stripped(text: str) -> None:
    assert find_special(neutralise(text).strip()) is None


@given(st.text())
def test_text_without_special_parts_is_unchanged(text: str) -> None:
    assert (neutralise(text) == text) == (find_special(text) is None)


def test_long_nested_text_takes_little_time() -> None:
    text = "<|" * 10_000 + "s" + "|>" * 10_000
    assert find_special(neutralise(text)) is None
    assert find_special(neutralise("<image>" * 9000)) is None


SPECIAL = ["<image>", "<|im_start|>", "<|im_end|>", "</s>", "<s>", "<pad>"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    made.train_from_iterator(["a cat on a mat"], trainer)
    made.add_special_tokens(SPECIAL)
    return made


def specials_in(tokenizer, text: str) -> set[str]:
    ids = {tokenizer.token_to_id(token): token for token in SPECIAL}
    return {ids[i] for i in tokenizer.encode(text).ids if i in ids}


def test_a_real_tokenizer_does_take_the_tokens_as_special(tokenizer) -> None:
    assert specials_in(tokenizer, "a <image> cat </s>") == {"<image>", "</s>"}


@settings(max_examples=300)
@given(text=NASTY)
def test_a_real_tokenizer_sees_no_special_token_in_neutralised_text(tokenizer, text: str) -> None:
    safe = neutralise(text)
    assert specials_in(tokenizer, safe) == set()
    assert tokenizer.decode(tokenizer.encode(safe).ids, skip_special_tokens=False) == safe

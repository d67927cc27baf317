"""Original, recaption and specialists' answers become turns."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.conversation import Answer, compose, find_special
from vila2data.conversation.turns import questions_for
from vila2data.prompts import template

BOTH, NEW = template("concatenated"), template("recaption_only")


def test_caption_follows_the_original_as_the_answer_to_the_image_alone() -> None:
    found = compose("k", original=" Alt text ", caption="A cat.\n", template=BOTH)
    assert found is not None
    assert found.messages == [
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "Alt text\nA cat."},
    ]
    assert (found.tasks, found.question_ids) == (["general"], [None])


@pytest.mark.parametrize(
    ("original", "caption", "used", "text", "task"),
    [
        ("", "A cat.", BOTH, "A cat.", "general"),
        ("Alt", "A cat.", NEW, "A cat.", "general"),
        ("Alt", "", NEW, "Alt", "original"),
        ("Alt", " \n", BOTH, "Alt", "original"),
    ],
)
def test_missing_text_leaves_the_other(original, caption, used, text, task) -> None:
    found = compose("k", original=original, caption=caption, template=used)
    assert found is not None
    assert (found.messages[1]["content"], found.tasks) == (text, [task])


def test_nothing_to_say_is_no_conversation() -> None:
    assert compose("k", original=" ", caption="", template=BOTH) is None
    blank = [Answer("ocr", " \n")]
    assert compose("k", original="", caption="", template=BOTH, answers=blank) is None


ANSWERS = [Answer("spatial", "Left."), Answer("grounding", "[0,0,1,1]"), Answer("ocr", "STOP")]


def test_specialists_follow_with_their_own_questions() -> None:
    found = compose("k", original="Alt", caption="A cat.", template=BOTH, answers=ANSWERS)
    assert found is not None
    assert found.tasks[0] == "general"
    assert sorted(found.tasks[1:]) == ["grounding", "ocr", "spatial"]
    for number, task in enumerate(found.tasks[1:], start=1):
        question = questions_for(task)[str(found.question_ids[number])]
        assert found.messages[2 * number] == {"role": "user", "content": question.text}
        said = next(a.text for a in ANSWERS if a.task == task)
        assert found.messages[2 * number + 1] == {"role": "assistant", "content": said}


def test_missing_answer_has_no_turn() -> None:
    answers = [Answer("spatial", ""), Answer("ocr", "STOP")]
    found = compose("k", original="", caption="A cat.", template=BOTH, answers=answers)
    assert found is not None
    assert found.tasks == ["general", "ocr"]


def test_image_stands_before_the_first_question_where_there_is_no_caption() -> None:
    found = compose("k", original="", caption="", template=BOTH, answers=ANSWERS[2:])
    assert found is not None
    assert found.messages[0]["content"].startswith("<image>\n")
    assert found.tasks == ["ocr"]


def test_order_and_questions_depend_on_key_and_seed_alone() -> None:
    def made(key: str, seed: int, answers: list[Answer]):
        return compose(key, original="", caption="c", template=NEW, answers=answers, seed=seed)

    assert made("k", 0, ANSWERS) == made("k", 0, ANSWERS[::-1])
    orders = Counter(tuple(made(str(n), 0, ANSWERS).tasks) for n in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60
    asked = Counter(made(str(n), 0, ANSWERS[:1]).question_ids[1] for n in range(300))
    assert set(asked) == set(questions_for("spatial"))
    assert min(asked.values()) > 60
    assert any(made(str(n), 0, ANSWERS) != made(str(n), 1, ANSWERS) for n in range(9))


PIECES = st.sampled_from(
    ["<image>", "USER:", "user:", "\n", " ", "\u00a0", "\r", "<|im_end|>", "x", "<", ">"]
)
TEXT = st.lists(PIECES, max_size=8).map("".join)


@given(TEXT, TEXT, TEXT, st.sampled_from([BOTH, NEW]))
def test_one_image_marker_and_nothing_else_special(original, caption, answer, used) -> None:
    answers = [Answer("ocr", answer)]
    found = compose("k", original=original, caption=caption, template=used, answers=answers)
    if found is None:
        return
    contents = [message["content"] for message in found.messages]
    assert sum(content.count("<image>") for content in contents) == 1
    assert contents[0].startswith("<image>")
    assert all(
        find_special(m["content"]) is None for m in found.messages if m["role"] == "assistant"
    )
    assert all(contents)
    assert [m["role"] for m in found.messages] == ["user", "assistant"] * len(found.tasks)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overlap_making import turns

from vila2data.overlap.text import MAX_WORDS, normalised, text_keys, words_of


def exchanges(*texts):
    return text_keys(turns(*texts)).exchanges


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("What is it?", "A dog."), ("what  is\tit", "a DOG")),
        (("<image>\nWhat is it?", "A dog"), ("What is it?\n<image>", "A dog")),
        (("Ｗhat is it？", "ﬁsh"), ("what is it", "fish")),
        (("What's it?", "it’s"), ("Whats it", "its")),
        (
            ("What is it?\nAnswer the question using a single word or phrase.", "dog"),
            ("What is it?", "dog"),
        ),
        (("Which?\nA. cat\nB. dog", "B"), ("Which?\nA. Dog\nB. Cat", "A.")),
        (("Which?\nA. cat\nB. dog", "(B)"), ("Which?\n(A) cat\n(B) dog", "dog")),
        (
            (
                "Which?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly.",
                "B",
            ),
            ("Which?\nA. dog\nB. cat", "A"),
        ),
    ],
)
def test_the_same_question_and_answer_have_one_key(one, other):
    assert exchanges(*one) == exchanges(*other)
    assert len(exchanges(*one)) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("What is it?", "A dog"), ("What is it?", "A cat")),
        (("How long?", "2.5 m"), ("How long?", "25 m")),
        (("How long?", "-5"), ("How long?", "5")),
        (("a b", "c"), ("a", "b c")),
        (("Which?\nA. cat\nB. dog", "A"), ("Which?\nA. cat\nB. dog", "B")),
        (("Which?\nA. cat\nB. dog", "A"), ("Which?\nA. cat\nB. cow", "A")),
        (("2x + 3", "1"), ("2x = 3", "1")),
    ],
)
def test_other_questions_and_answers_have_other_keys(one, other):
    assert set(exchanges(*one)).isdisjoint(exchanges(*other))


def test_questions_have_keys_of_their_own():
    found = text_keys(turns("Where?", "Here", "where", "There", "Who?", "I"))
    assert len(found.exchanges) == 3
    assert len(found.questions) == 2
    assert set(found.exchanges).isdisjoint(found.questions)


def test_a_key_tells_the_words_of_the_answer_and_half_of_the_questions():
    assert [words_of(key) for key in exchanges("Is the sky blue today?", "yes")] == [3]
    assert [words_of(key) for key in exchanges("Why?", "word " * 999)] == [MAX_WORDS]
    assert [words_of(key) for key in exchanges("图片里有什么?", "红色的狗")] == [8]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        turns("<image>", "A caption."),
        turns("Provide a one-sentence caption for the provided image.", "A caption."),
        turns("?!", "..."),
        [{"role": "user", "content": None}, {"role": "assistant", "content": 5}],
        [{"role": "system", "content": "x"}, {}],
        [{"role": "assistant", "content": "nobody asked"}],
    ],
)
def test_what_asks_nothing_has_no_key(messages):
    assert text_keys(messages).exchanges == ()
    assert text_keys(messages).questions == ()


def test_keys_do_not_change():
    assert exchanges("What is it?", "A dog.") == (KEY,)


KEY = 15704008094607708931


@given(st.text(), st.text())
def test_any_text_has_keys(question, answer):
    found = text_keys(turns(question, answer))
    assert len(found.exchanges) <= len(found.questions) <= 1
    assert all(0 <= key < 2**64 for key in (*found.exchanges, *found.questions))


@given(st.text())
def test_normalised_text_stays_as_it_is(text):
    assert normalised(normalised(text)) == normalised(text)

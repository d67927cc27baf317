"""Likelihoods against a plain forward pass over the ids that the engine asks with."""

from dataclasses import replace

import pytest
import torch
from scene_rows import drawn_rows, picture_of
from tiny_models import tiny_spec

from vila2data.engines import Request, Sampling
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.training.architectures.assemble import assemble
from vila2data.training.architectures.save import save_checkpoint
from vila2data.training.evaluation.likelihood import (
    Likelihood,
    Said,
    Scorer,
    candidates_of,
    choose,
    loss_figures,
    reference_losses,
)
from vila2data.training.evaluation.scenes import Question, Scene, Vocabulary
from vila2data.training.tiny import _CHAT_TEMPLATE

IMAGES = [picture_of(row) for row in drawn_rows(3)]
TEXTS = [
    Said(IMAGES[0], "a red box ?", "two small green circle ."),
    Said(IMAGES[1], "a red box ?", "left"),
    Said(IMAGES[2], "the dark plain corner of the view ?", "a box and a ring on the left"),
]


@pytest.fixture(scope="module")
def scorer(tiny_llava):
    return Scorer(str(tiny_llava), batch_size=8)


@pytest.fixture(scope="module")
def engine(tiny_llava):
    return TransformersEngine(TransformersConfig(model=str(tiny_llava), device="cpu"))


def asked_ids(engine, said):
    """What the engine gives its model for a question."""
    request = Request(0, said.image, said.question, Sampling())
    return engine._inputs([request], [request.picture()])


def loss_by_hand(engine, said):
    inputs = asked_ids(engine, said)
    tokenizer = engine._chat.tokenizer
    answer = tokenizer(f"{said.answer} </s>", add_special_tokens=False)["input_ids"]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    with torch.no_grad():
        logits = engine._model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0]
    chances = torch.softmax(logits.double(), dim=-1)
    start = inputs["input_ids"].shape[1]
    told = [chances[start - 1 + n, token] for n, token in enumerate(answer)]
    return Likelihood(float(-torch.stack(told).log().sum()), len(answer))


def close(likelihood):
    return Likelihood(pytest.approx(likelihood.loss, rel=1e-4), likelihood.tokens)


def test_the_question_is_asked_with_the_ids_of_the_engine(scorer, engine):
    inputs = scorer.inputs(TEXTS)
    for row, said in enumerate(TEXTS):
        asked = asked_ids(engine, said)
        start = asked["input_ids"].shape[1]
        assert inputs["input_ids"][row, :start].tolist() == asked["input_ids"][0].tolist()
        assert (inputs["labels"][row, :start] == -100).all()
        assert inputs["labels"][row, start] != -100
        torch.testing.assert_close(inputs["pixel_values"][row], asked["pixel_values"][0])


def test_likelihoods_are_those_of_a_plain_forward_pass(scorer, engine):
    expected = [close(loss_by_hand(engine, said)) for said in TEXTS]
    assert list(scorer.score(TEXTS)) == expected


def test_the_batch_does_not_matter(tiny_llava, scorer):
    alone = Scorer(str(tiny_llava), batch_size=1)
    assert list(alone.score(TEXTS)) == [close(one) for one in scorer.score(TEXTS)]
    assert list(scorer.score(TEXTS)) == list(scorer.score(TEXTS))


def test_what_cannot_be_encoded_has_no_likelihood(scorer):
    odd = [
        TEXTS[0],
        replace(TEXTS[0], answer=" "),
        replace(TEXTS[0], answer="box " * 3000),
        TEXTS[1],
    ]
    found = list(scorer.score(odd))
    assert found[1:3] == [None, None]
    assert [found[0], found[3]] == [close(one) for one in scorer.score([TEXTS[0], TEXTS[1]])]
    assert list(scorer.score([odd[1]])) == [None]
    assert list(scorer.score([])) == []


def test_a_model_of_many_tiles_is_scored_too(tmp_path):
    model, processor = assemble(
        tiny_spec(tmp_path, "llava_next").model_copy(update={"chat_template": _CHAT_TEMPLATE})
    )
    save_checkpoint(model, processor, tmp_path / "m")
    engine = TransformersEngine(TransformersConfig(model=str(tmp_path / "m"), device="cpu"))
    [found] = Scorer(str(tmp_path / "m"), batch_size=2).score([TEXTS[0]])
    inputs = asked_ids(engine, TEXTS[0])
    answer = engine._chat.tokenizer(f"{TEXTS[0].answer} </s>", add_special_tokens=False)[
        "input_ids"
    ]
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], dim=1)
    del inputs["attention_mask"]
    with torch.no_grad():
        logits = engine._model(input_ids=ids, **inputs).logits[0, -len(answer) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
    assert found == Likelihood(pytest.approx(expected.item(), rel=1e-4), len(answer))


SCENES = [
    Scene(str(n), image, (), "gray", "white", text, ())
    for n, (image, text) in enumerate(zip(IMAGES, ["a red box", None, "the left"], strict=True))
]


def test_references_are_scored_with_the_images_that_are_told(scorer):
    found = reference_losses(scorer, SCENES, [1, 2, 0], "a view ?")
    expected = list(
        scorer.score(
            [Said(IMAGES[1], "a view ?", "a red box"), Said(IMAGES[0], "a view ?", "the left")]
        )
    )
    assert found == [expected[0], None, expected[1]]


def test_losses_are_means_over_tokens_of_what_has_both():
    own = [Likelihood(2.0, 4), None, Likelihood(3.0, 1), Likelihood(1.0, 1)]
    other = [Likelihood(4.0, 4), None, Likelihood(6.0, 1), None]
    figures = loss_figures(own, other)
    assert {n: (f.value, f.count) for n, f in figures.items()} == {
        "loss": (1.0, 5),
        "loss_shuffled": (2.0, 5),
        "loss_margin": (1.0, 5),
    }


KNOWN = Vocabulary(
    (),
    (),
    (),
    (),
    (),
    (),
    {"side": ["left", "middle", "right"], "depth": ["behind", "front", "no", "yes"]},
)


@pytest.mark.parametrize(
    ("question", "answer", "kind", "expected"),
    [
        ("Is the ball left or right of the cube?", "left", "side", ["left", "right"]),
        ("Where is the ball?", "left", "side", ["left", "middle", "right"]),
        ("Is the ball left, or in the middle?", "right", "side", ["left", "middle", "right"]),
        ("What is left of the ball?", "right", "side", ["left", "middle", "right"]),
        ("Is the ball in front of or behind the cube?", "front", "depth", ["behind", "front"]),
        ("Is the ball in front of the cube?", "No", "depth", ["no", "yes"]),
        ("What color is it?", "red", "color", []),
    ],
)
def test_the_candidates_are_those_a_question_offers(question, answer, kind, expected):
    assert candidates_of(Question(question, answer, kind), KNOWN) == expected


def test_the_likeliest_candidate_is_chosen(scorer, engine):
    asked = [
        Question("a box left or right ?", "left", "side"),
        Question("two boxes ?", "two", "count"),
        Question("a ring ?", "middle", "side"),
    ]
    scenes = [replace(SCENES[0], questions=asked), replace(SCENES[1], questions=asked[:1])]
    counts = []
    chosen = choose(scorer, scenes, KNOWN, counts.append)

    def likeliest(image, question, candidates):
        losses = {c: loss_by_hand(engine, Said(image, question, c)).loss for c in candidates}
        return min(losses, key=losses.__getitem__)

    sides = ["left", "middle", "right"]
    assert chosen == [
        [
            likeliest(IMAGES[0], asked[0].question, ["left", "right"]),
            None,
            likeliest(IMAGES[0], asked[2].question, sides),
        ],
        [likeliest(IMAGES[1], asked[0].question, ["left", "right"])],
    ]
    assert sum(counts) == 3


def test_one_candidate_is_no_choice(scorer):
    scenes = [replace(SCENES[0], questions=[Question("a ring ?", "left", "side")])]
    words = replace(KNOWN, answers={"side": ["left"], "depth": []})
    assert choose(scorer, scenes, words) == [[None]]

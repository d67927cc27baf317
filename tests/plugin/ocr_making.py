"""Makes records in the layouts of the sources of text in images, good and hostile."""

import json
from collections.abc import Mapping
from typing import Any

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.layouts import answers, captions, cauldron, documents
from vila2data.blend.layouts.layout import Layout
from vila2data.corpus.images import Problem

PNG = b"\x89PNG not decoded here"
EMBEDDED = {"bytes": PNG, "path": "0.png"}

OCR_LAYOUTS: dict[str, Layout] = {
    **answers.LAYOUTS,
    **captions.LAYOUTS,
    **cauldron.LAYOUTS,
    **documents.LAYOUTS,
}

GOOD: dict[str, dict[str, Any]] = {
    "question_answer": {
        "id": 7,
        "image": "a.png",
        "question": "Which colour?",
        "answer": "red",
        "choices": ["red", "blue"],
    },
    "captions": {"id": "0a", "image": EMBEDDED, "captions": ["A sign.", "A red sign."]},
    "textocr_gpt4v": {
        "image": "0a.jpg",
        "caption": "DESCRIPTION\nA bottle.\n\nTEXT\nThe label says 'GIN'.",
        "caption_image": "A bottle.",
        "caption_text": "The label says 'GIN'.",
        "caption_condensed": "A bottle that says 'GIN'.",
    },
    "cauldron": {
        "images": [EMBEDDED],
        "texts": [
            {"user": "What is A?", "assistant": "Answer: B", "source": "AI2D"},
            {"user": "What is B?", "assistant": "Answer: C", "source": "AI2D"},
        ],
    },
    "docvqa": {
        "image": EMBEDDED,
        "question_id": 337,
        "question": "what is the date?",
        "answers": ["1/8/93", "1/8/1993"],
        "data_split": "train",
    },
    "chartqa": {"image": EMBEDDED, "query": "How many?", "label": ["14"], "human_or_machine": 0},
    "textvqa": {
        "image_id": "0054c91397f2fe05",
        "question_id": 0,
        "question": "what is the brand?",
        "answers": ["nokia", "Nokia", "nokia", "unanswerable"],
    },
    "arxivqa": {
        "id": "physics-1049",
        "image": "images/1501.00713_1.jpg",
        "question": "What happens?",
        "options": ["A) It rises", "B) It falls", "C) Nothing", "D) Both"],
        "label": "B",
        "rationale": "It falls.",
    },
    "ocrvqa": {
        "image": EMBEDDED,
        "image_id": "761183272",
        "questions": ["Who wrote this book?", "What is the title?"],
        "answers": ["Sandra Boynton", "Calendar 2016"],
        "set_name": "train",
    },
    "synthdog": {
        "image": EMBEDDED,
        "ground_truth": json.dumps({"gt_parse": {"text_sequence": "the quick brown"}}),
    },
}
"""A record of each layout, whose every question can be used."""

HOSTILE: dict[str, Any] = {
    "null": None,
    "true": True,
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge number": 10**400,
    "empty text": "",
    "blank": " \n\t ",
    "bytes": b"\xff\x00",
    "no bytes": {"bytes": None, "path": None},
    "empty list": [],
    "list of null": [None],
    "nested list": [[["a"]]],
    "list of objects": [{"answer": []}, {}],
    "empty object": {},
    "object of objects": {"gt_parse": {"text_sequence": {"a": 1}}},
    "no json": "{'gt_parse': {'text_sequence': 'a'}}",
    "deep json": "[" * 100_000,
    "json of a list": "[1, 2]",
    "special tokens": "<image> </s> <|im_end|> USER: ",
    "lone surrogate": "\ud800",
    "spaces": " " * 100_000 + "x",
    "dots": "." * 100_000 + "x",
    "long text": "word " * 20_000,
    "script": "__import__('os').system('false')",
}
"""Values that no layout expects, by what they are."""


def read(layout: str, record: Mapping[str, Any]) -> list[Annotation | Problem]:
    """All that a layout makes of a record."""
    return list(OCR_LAYOUTS[layout].read(record))


def exchanges(layout: str, record: Mapping[str, Any]) -> tuple[Exchange, ...]:
    """The exchanges of a record that becomes one annotation and no problem."""
    (found,) = read(layout, record)
    assert isinstance(found, Annotation), found
    return found.exchanges


def reasons(layout: str, record: Mapping[str, Any]) -> list[str]:
    """Why a record, or a part of it, cannot be used."""
    return [found.reason for found in read(layout, record) if isinstance(found, Problem)]


def check(found: list[Annotation | Problem]) -> None:
    """Refuses what no layout may give."""
    assert found
    for one in found:
        if isinstance(one, Problem):
            assert one.reason
            continue
        assert one.exchanges
        assert all(isinstance(image, str | bytes) and image for image in one.images)
        for exchange in one.exchanges:
            assert exchange.answer == exchange.answer.strip() != ""
            assert not exchange.choices or exchange.answer in exchange.choices

"""Makes records in the layouts of the sources for supervised fine-tuning, good and hostile."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from vila2data.blend.annotation import Annotation
from vila2data.blend.layouts import dialogs, frames, texts
from vila2data.blend.layouts.layout import Layout
from vila2data.corpus.images import Problem

PNG = b"\x89PNG not decoded here"
OTHER_PNG = b"\x89PNG another"
EMBEDDED = {"bytes": PNG, "path": "0.png"}
ENCODED = b64encode(PNG).decode()

SFT_LAYOUTS: dict[str, Layout] = {**frames.LAYOUTS, **texts.LAYOUTS, **dialogs.LAYOUTS}

GOOD: dict[str, dict[str, Any]] = {
    "instruction": {"instruction": "Add 1 and 2.", "output": "3", "input": "", "kind": "sums"},
    "frames": {"video": "v_a", "question": "is it day", "answer": "yes", "id": "v_a_0"},
    "m3it": {"input": "Is it day?", "output": "The answer is yes.", "img_str": ENCODED},
    "pairs_of_images": {
        "sentence": "Two dogs are there.",
        "label": "True",
        "id": "train-10171-0-0",
        "directory": 12,
    },
    "nlvr": {"sentence": "There is a square.", "label": "false", "id": "72-0", "directory": "5"},
    "stem": {
        "problem": "Which is a square?",
        "problem_pic": None,
        "choices": None,
        "choices_pic": [PNG, OTHER_PNG],
        "answer_idx": 1,
        "subject": "math",
        "grade": "grade-1",
    },
    "dialog": {
        "image": "coco/train2014/1.jpg",
        "caption": "a cat",
        "dialog": [["is it big", "no"], ["Is it asleep?", "yes"]],
    },
    "image_by_id": {"image_id": "2392588", "question": "Is there a pot?", "answer": "No."},
    "sherlock": {
        "inputs": {
            "clue": "wet road.",
            "image": {"url": "http://a.org/vg/VG_100K/5.jpg", "width": 200, "height": 100},
            "bboxes": [{"left": 20, "top": 50, "width": 100, "height": 50}],
        },
        "targets": {"inference": "it rained"},
        "instance_id": "e5",
    },
    "wit": {
        "image": EMBEDDED,
        "image_url": "https://upload.org/a.jpg",
        "wit_features": {
            "language": ["de", "en"],
            "caption_reference_description": ["Ein Turm", "A tower"],
            "caption_alt_text_description": [None, "tower"],
            "page_title": ["Turm", "Tower"],
        },
    },
    "viquae": {
        "id": "q1",
        "image": "a.jpg",
        "question": "Who is this man?",
        "output": {"original_answer": "Bach", "answer": ["Bach", "J. S. Bach"]},
    },
    "benchmark": {
        "id": 3,
        "image": EMBEDDED,
        "question": "What is B?",
        "choices": ["a cat", "a dog"],
        "answer": "B",
    },
}

HOSTILE: dict[str, Any] = {
    "none": None,
    "truth": True,
    "negative": -1,
    "far": 10**30,
    "nan": float("nan"),
    "infinite": float("inf"),
    "empty text": "",
    "blank text": " \n",
    "text": "text",
    "half of a pair": "\ud800",
    "bytes": b"\xff",
    "empty list": [],
    "list of nothing": [None],
    "list of lists": [[[]], [1, 2], ["a", "b"]],
    "list of objects": [{}, {"question": {"text": 1}, "answer": {}}],
    "empty object": {},
    "object": {"bytes": 1, "path": [], "text": {}, "answer": [{}]},
    "boxes": [{"left": -1, "top": "0", "width": 1e400, "height": None}],
}
"""By what it is, values that no column is meant to hold."""


def read(layout: str, record: Mapping[str, Any]) -> list[Annotation | Problem]:
    """What a layout gives of a record."""
    return list(SFT_LAYOUTS[layout].read(record))


def only(layout: str, record: Mapping[str, Any]) -> Annotation:
    """The one annotation of a record."""
    (found,) = read(layout, record)
    assert isinstance(found, Annotation), found
    return found


def reasons(layout: str, record: Mapping[str, Any]) -> list[str]:
    """Why parts of a record cannot be used."""
    return [found.reason for found in read(layout, record) if isinstance(found, Problem)]


def check(found: list[Annotation | Problem]) -> None:
    """What any annotation must be."""
    assert found
    for one in found:
        if isinstance(one, Problem):
            assert one.reason
            continue
        assert isinstance(one.id, str)
        assert isinstance(one.group, str)
        assert all(isinstance(image, str | bytes) and image for image in one.images)
        assert one.exchanges
        for exchange in one.exchanges:
            assert isinstance(exchange.question, str)
            assert isinstance(exchange.answer, str)
            assert not exchange.choices or exchange.answer in exchange.choices


_SENTENCE = {"identifier": "train-1-0-0", "directory": "3", "sentence": "A dog.", "label": "True"}
_VIDEO_QA = {"video_id": 7010, "question": "who sings?", "answer": "man", "id": 5}

ROWS: dict[str, dict[str, Any]] = {
    "msr_vtt": {"caption": "a man sings", "video_id": "video7", "sen_id": 3},
    "image_paragraph_captioning": {
        "image_id": 2356347,
        "url": "https://a.org/rak248/VG_100K_2/2356347.jpg",
        "paragraph": "A bus. It is red.",
    },
    "clevr": {
        "image_filename": "CLEVR_train_000000.png",
        "question_index": 0,
        "question": "How many cubes are there?",
        "answer": "2",
        "split": "train",
    },
    "nlvr": _SENTENCE,
    "nlvr2": _SENTENCE,
    "visualmrc": {
        "id": "p1",
        "image_filename": "p1.png",
        "qa_data": [{"question": {"text": "What is sold?"}, "answer": {"text": "Tea."}}],
    },
    "activitynet_qa": {"video_name": "v_a", "question": "is it day", "question_id": "v_a_1"},
    "ivqa": {"video_id": "a", "question": "What is cut?", "answer1": "wood", "answer2": "a log"},
    "msrvtt_qa": _VIDEO_QA,
    "msvd_qa": _VIDEO_QA,
    "stem_qa": GOOD["stem"] | {"pic_choice": True, "pic_prob": False},
    "dvqa": {"question": "How tall?", "answer": "9", "image": "bar.png", "question_id": 1},
    "wit_base": GOOD["wit"],
    "viquae": {
        "id": "a1",
        "input": "Who is this man?",
        "image": "a.jpg",
        "output": {"original_answer": "Bach", "answer": ["Bach"]},
    },
    "visual_dialog": GOOD["dialog"],
    "scienceqa_train": {
        "image": EMBEDDED,
        "question": "Which is east?",
        "choices": ["Iowa", "Maine"],
        "answer": 1,
    },
    "sherlock": GOOD["sherlock"],
    "lrv_instruction": GOOD["image_by_id"] | {"task": "negative"},
    "flan_1m": {"inputs": "Add 1 and 2.", "targets": "3", "_task_name": "sums"},
    "math_instruct": {"source": "data/a.json", "instruction": "Add 1 and 2.", "output": "3"},
    "dolly": {"instruction": "Who?", "context": "Ann.", "response": "Ann", "category": "qa"},
    "gsm8k_screl_sft": {"query": "Add 1 and 2.", "response": "3\n#### 3"},
}
"""By id of the catalogue, a row in the shape that its publisher gives it."""

JOINED: dict[str, dict[str, Any]] = {
    "msr_vtt": {"videos": [{"video_id": "video7", "split": "train", "id": 7}]},
    "activitynet_qa": {"": [{"question_id": "v_a_1", "answer": "yes", "type": 3}]},
}
"""The second files' arrays by their key, empty where the file is one array."""

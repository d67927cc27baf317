"""The ten sources of LLaVA-1.5's mixture, each as its publisher lays it out.

What a source must give is computed here by arithmetic of its own, from how its records were made.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from mixture_files import (
    HEIGHT,
    PICTURES,
    WIDTH,
    Expected,
    Photos,
    coco_name,
    picture,
    vg_name,
    write_json,
    write_parquet,
)

LONG_TURN = "word " * 320  # 400 tokens by the estimate of a quarter of the bytes


def turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns of LLaVA's records."""
    return [
        {"from": who, "value": text}
        for pair in pairs
        for who, text in zip(("human", "gpt"), pair, strict=True)
    ]


def llava(root: Path, photos: Photos, rows: int, images: int) -> Expected:
    expected = Expected(rows)

    def records() -> Iterator[str]:
        for row in range(rows):
            photo, pairs = (
                row % images,
                [(f"What is {row} {n}?", f"It is {n}.") for n in range(1 + row % 4)],
            )
            if row % 2:
                pairs[0] = (f"{pairs[0][0]}\n<image>", pairs[0][1])
            else:
                pairs[0] = (f"<image>\n{pairs[0][0]}", pairs[0][1])
            name = coco_name(photo).rpartition("/")[2]
            if photos.is_missing(photo):
                expected.missing += 1
            else:
                expected.rows += 1
                expected.exchanges += len(pairs)
            yield json.dumps({"id": name[:-4], "image": name, "conversations": turns(pairs)})

    write_json(root / "llava_instruct_150k" / "llava_instruct_150k.json", records())
    expected.misnamed = sum(photos.is_gif(number) for number in range(min(rows, images)))
    return expected


def sharegpt(root: Path, good: int) -> Expected:
    """Of every ten usable conversations follow three that Vicuna's cleaning refuses."""
    expected = Expected(0, rows=good)

    def conversation(number: int) -> list[dict[str, str]]:
        pairs = [(f"Question {number} {n}", f"Answer {n}") for n in range(1 + number % 3)]
        expected.exchanges += len(pairs)
        if number % 10 == 1:  # a question without an answer
            return [*turns(pairs), {"from": "human", "value": "And then?"}]
        if number % 10 == 2:  # the human comes second
            return [{"from": "gpt", "value": "Hello."}, *turns(pairs)]
        if number % 10 == 3:  # 2,048 tokens hold five of these
            expected.exchanges += 5 - len(pairs)
            return turns([("Why?", LONG_TURN)] * 8)
        return turns(pairs)

    def records(part: int) -> Iterator[str]:
        for number in range(part, good, 2):
            yield json.dumps({"id": f"q{number:06d}_0", "conversations": conversation(number)})
            if number % 10 == 0:
                twice = [*turns([("a", "b")]), {"from": "gpt", "value": "c"}]
                bad = {
                    "roles_broken": twice,
                    "conversation_missing": [],
                    "too_long": turns([("x", LONG_TURN * 6)]),
                }
                for reason, said in bad.items():
                    if reason == "too_long":
                        expected.too_long += 1
                    else:
                        expected.refused[reason] = expected.refused.get(reason, 0) + 1
                    yield json.dumps({"id": f"{reason}{number}", "conversations": said})

    folder = root / "sharegpt" / "HTML_cleaned_raw_dataset"
    for part in (0, 1):
        file = folder / f"sg_90k_part{part + 1}_html_cleaned.json"
        expected.records += write_json(file, records(part))
    return expected


def _answers(number: int) -> str:
    """Ten people's answers, of which the most frequent is ``answer NUMBER``."""
    told = [f"answer {number % 3}"] * 6 + ["yes", "no", "yes", "no"]
    return json.dumps(
        [
            {"answer": a, "raw_answer": a, "answer_confidence": "yes", "answer_id": place + 1}
            for place, a in enumerate(told)
        ]
    )


def _vqa(
    folder: Path, names: tuple[str, str], photos: Photos, sizes: tuple[int, int], *, agreed: bool
) -> Expected:
    """Question number q is about photo q modulo the number of photos, so that none stand together."""
    questions, images = sizes
    answers = [_answers(number) for number in range(3)]

    def annotations() -> Iterator[str]:
        for q in range(questions):
            told = f'"multiple_choice_answer":"answer {q % 3}",' if agreed else ""
            yield (
                f'{{"question_type":"what","answer_type":"other",{told}"answers":{answers[q % 3]},'
                f'"image_id":{q % images + 1},"question_id":{q}}}'
            )

    def asked() -> Iterator[str]:
        for q in range(questions):
            yield f'{{"image_id":{q % images + 1},"question":"What is number {q}?","question_id":{q}}}'

    head = '{"info":{"year":2014},"license":{"name":"CC BY 4.0"},"data_subtype":"train2014","data_type":"mscoco",'
    write_json(folder / names[0], annotations(), opening=head + '"annotations":[', closing="]}")
    write_json(folder / names[1], asked(), opening=head + '"questions":[', closing="]}")
    return _merged(questions, images, photos)


def _merged(questions: int, images: int, photos: Photos, *, rows_each: int = 1) -> Expected:
    """Question q is of photo q modulo ``images``: a conversation for each photo with a question."""
    expected = Expected(questions)
    for photo in range(min(images, questions)):
        if photos.is_missing(photo):
            expected.missing += 1
            continue
        expected.rows += rows_each
        expected.exchanges += rows_each * len(range(photo, questions, images))
        expected.misnamed += photos.is_gif(photo)
    return expected


def vqav2(root: Path, photos: Photos, questions: int, images: int) -> Expected:
    names = ("v2_mscoco_train2014_annotations.json", "v2_OpenEnded_mscoco_train2014_questions.json")
    return _vqa(root / "vqav2", names, photos, (questions, images), agreed=True)


def okvqa(root: Path, photos: Photos, questions: int, images: int) -> Expected:
    names = ("mscoco_train2014_annotations.json", "OpenEnded_mscoco_train2014_questions.json")
    return _vqa(root / "okvqa", names, photos, (questions, images), agreed=False)


def gqa(root: Path, photos: Photos, questions: int, images: int) -> Expected:
    def records() -> Iterator[str]:
        for q in range(questions):
            yield (
                f'"{q:08d}":{{"semantic":[{{"operation":"select","dependencies":[],"argument":"bus ({q})"}}],'
                f'"entailed":[],"equal":["{q:08d}"],"question":"Is number {q} red?","imageId":"{2_300_000 + q % images}",'
                '"isBalanced":true,"groups":{"global":null,"local":"13-bus_red"},"answer":"yes",'
                '"semanticStr":"select: bus (1)->verify color: red [0]","annotations":{"answer":{},"question":{"2":"1"},'
                '"fullAnswer":{"2":"1"}},"types":{"detailed":"verifyAttr","semantic":"attr","structural":"verify"},'
                f'"fullAnswer":"Yes, number {q} is red."}}'
            )

    write_json(root / "gqa" / "train_balanced_questions.json", records(), opening="{", closing="}")
    return _merged(questions, images, photos)


def aokvqa(root: Path, photos: Photos, questions: int, images: int) -> Expected:
    def records() -> Iterator[str]:
        for q in range(questions):
            yield json.dumps(
                {
                    "split": "train",
                    "image_id": q % images + 1,
                    "question_id": f"Q{q:021d}",
                    "question": f"Why is number {q}?",
                    "choices": [f"cab {q}", f"bus {q}", f"tram {q}", f"train {q}"],
                    "correct_choice_idx": q % 4,
                    "direct_answers": ["cab"] * 10,
                    "difficult_direct_answer": False,
                    "rationales": ["There is a stop."] * 3,
                }
            )

    write_json(root / "aokvqa" / "aokvqa_v1p0_train.json", records())
    return _merged(questions, images, photos, rows_each=4)


def ocrvqa(root: Path, covers: int, cap: int) -> Expected:
    """Five questions about every cover; no two covers have the same bytes."""
    drawn = [picture(number) for number in range(PICTURES)]
    questions = [
        "Who wrote it?",
        "What is the title?",
        "What is the genre?",
        "Is it a comedy?",
        "Is it old?",
    ]
    info = [{"word": "A", "bounding_box": dict.fromkeys(_CORNERS, 0.1)}]

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(covers):
            content = drawn[number % PICTURES] + number.to_bytes(8, "big")  # after the JPEG's end
            yield {
                "image": {"bytes": content, "path": f"{number}.jpg"},
                "image_id": f"{number:010d}",
                "questions": questions,
                "answers": [f"Author {number}", f"Title {number}", "Law", "No", "No"],
                "ocr_tokens": ["A"],
                "ocr_info": info,
                "title": f"Title {number}",
                "authorName": f"Author {number}",
                "genre": "Law",
                "image_width": WIDTH,
                "image_height": HEIGHT,
                "image_url": f"http://ecx.images-amazon.com/images/I/{number}.jpg",
                "set_name": "train",
            }

    file = root / "ocrvqa" / "data" / "train-00000-of-00001.parquet"
    records = write_parquet(file, rows(), _OCRVQA)
    return Expected(records, min(cap, covers), exchanges=len(questions) * min(cap, covers))


def textcaps(root: Path, photos: int) -> Expected:
    """Five captions of every photo, of which a row has one."""
    drawn = [picture(number) for number in range(PICTURES)]

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(photos):
            captions = [f"A sign says {number} {n}." for n in range(5)]
            yield {
                "question_id": str(number),
                "question": "Provide a one-sentence caption for the provided image.",
                "image": {"bytes": drawn[number % PICTURES], "path": f"{number}.jpg"},
                "image_id": f"{number:016x}",
                "image_width": WIDTH,
                "image_height": HEIGHT,
                "set_name": "train",
                "image_name": f"{number:016x}",
                "caption_id": list(range(5 * number, 5 * number + 5)),
                "caption_str": captions,
                "reference_strs": captions,
            }

    file = root / "textcaps" / "data" / "train-00000-of-00001.parquet"
    return Expected(write_parquet(file, rows(), _TEXTCAPS), photos, exchanges=photos)


def refcoco(root: Path, photos: Photos, segments: int, images: int) -> Expected:
    """Photo i has so many sentences, of two objects, that nine a row make its share of segments."""
    expected = Expected(0)

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(images):
            parts = segments // images + (number < segments % images)
            said = [f"thing {number} {n}" for n in range(9 * (parts - 1) + 1 + number % 9)]
            if photos.is_missing(number):
                expected.missing += 1
            else:
                expected.rows += parts
                expected.exchanges += len(said)
                expected.misnamed += photos.is_gif(number)
            for place, sentences in enumerate((said[::2], said[1::2])):
                if sentences:
                    yield _reference(number, place, sentences)

    file = root / "refcoco" / "data" / "train-00000-of-00001.parquet"
    expected.records = write_parquet(file, rows(), _REFCOCO)
    return expected


def _reference(number: int, place: int, sentences: list[str]) -> dict[str, Any]:
    left = 64.0 + 256.0 * place
    raw = [
        {"raw": s.upper(), "sent": s, "sent_id": n, "tokens": s.split()}
        for n, s in enumerate(sentences)
    ]
    return {
        "sent_ids": list(range(len(sentences))),
        "file_name": f"COCO_train2014_{number + 1:012d}_{place}.jpg",
        "ann_id": 2 * number + place,
        "ref_id": 2 * number + place,
        "image_id": number + 1,
        "split": "train",
        "sentences": raw,
        "category_id": 1,
        "raw_anns": json.dumps({"bbox": [left, 48.0, 128.0, 240.0], "area": 30720.0}),
        "raw_image_info": json.dumps({"width": 640, "height": 480}),
        "raw_sentences": json.dumps(raw),
        "image_path": f"coco/train2014/COCO_train2014_{number + 1:012d}.jpg",
        "bbox": [left, 48.0, left + 128.0, 288.0],
        "captions": sentences,
        "global_image_id": f"coco.{number + 1}",
    }


def vg(root: Path, photos: Photos, images: int, listed: int) -> Expected:
    """Of ``images`` photos ``listed`` are in the folder of images; five to nineteen regions each."""
    expected = Expected(0)
    kept = [(number + 1) * listed // images > number * listed // images for number in range(images)]
    photos.link((number for number in range(images) if kept[number]), vg_name)

    def described() -> Iterator[str]:
        for number in range(images):
            count = 5 + number % 15
            if kept[number] and not photos.is_missing(number):
                expected.rows += 1
                expected.exchanges += min(count, 10)
                expected.misnamed += photos.is_gif(number)
            regions = ",".join(
                f'{{"region_id":{20 * number + n},"width":160,"height":120,"image_id":{number + 1},'
                f'"phrase":"thing {number} {n}","y":{n * 10},"x":{n * 20}}}'
                for n in range(count)
            )
            yield f'{{"regions":[{regions}],"id":{number + 1}}}'

    def sized() -> Iterator[str]:
        for number in range(images):
            url = f"https://cs.stanford.edu/people/rak248/{vg_name(number)[3:]}"
            yield (
                f'{{"width":640,"url":"{url}","height":480,"image_id":{number + 1},'
                '"coco_id":null,"flickr_id":null}'
            )

    expected.records = write_json(root / "vg" / "region_descriptions.json", described())
    write_json(root / "vg" / "image_data.json", sized())
    (root / "vg" / "images.txt").write_text(
        "".join(f"{vg_name(number)}\n" for number in range(images) if kept[number])
    )
    expected.missing = images - expected.rows
    return expected


_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_TEXTS = pa.list_(pa.string())
_CORNERS = ("width", "height", "top_left_x", "top_left_y")
_OCRVQA = pa.schema(
    {
        "image": _IMAGE,
        "image_id": pa.string(),
        "questions": _TEXTS,
        "answers": _TEXTS,
        "ocr_tokens": _TEXTS,
        "ocr_info": pa.list_(
            pa.struct(
                {
                    "word": pa.string(),
                    "bounding_box": pa.struct(dict.fromkeys(_CORNERS, pa.float64())),
                }
            )
        ),
        **dict.fromkeys(("title", "authorName", "genre"), pa.string()),
        **dict.fromkeys(("image_width", "image_height"), pa.int64()),
        **dict.fromkeys(("image_url", "set_name"), pa.string()),
    }
)
_TEXTCAPS = pa.schema(
    {
        "question_id": pa.string(),
        "question": pa.string(),
        "image": _IMAGE,
        "image_id": pa.string(),
        **dict.fromkeys(("image_width", "image_height"), pa.int64()),
        **dict.fromkeys(("set_name", "image_name"), pa.string()),
        "caption_id": pa.list_(pa.int64()),
        "caption_str": _TEXTS,
        "reference_strs": _TEXTS,
    }
)
_REFCOCO = pa.schema(
    {
        "sent_ids": pa.list_(pa.int64()),
        "file_name": pa.string(),
        **dict.fromkeys(("ann_id", "ref_id", "image_id"), pa.int64()),
        "split": pa.string(),
        "sentences": pa.list_(
            pa.struct(
                {"raw": pa.string(), "sent": pa.string(), "sent_id": pa.int64(), "tokens": _TEXTS}
            )
        ),
        "category_id": pa.int64(),
        **dict.fromkeys(("raw_anns", "raw_image_info", "raw_sentences", "image_path"), pa.string()),
        "bbox": pa.list_(pa.float64()),
        "captions": _TEXTS,
        "global_image_id": pa.string(),
    }
)

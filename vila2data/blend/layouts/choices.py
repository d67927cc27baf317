"""Questions about photos, with choices or with a short answer: VQAv2, GQA, A-OKVQA and their kind.

Photos are named as LLaVA's folder of images has them: ``coco/train2017/%012d.jpg``, which holds
those of COCO's train2014 too, and ``gqa/images/%s.jpg``.
"""

from collections.abc import Iterator, Mapping

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import Label, choice_of, choices_of, majority, stated
from vila2data.corpus.images import Problem

from .answers import annotation, asked, pictures, single, sorted_out, with_choices
from .fields import image_of, text_of
from .layout import Layout, Record

_DIGITS = 12  # of a photo's number


def read_choices(record: Record) -> Iterator[Annotation | Problem]:
    """A question with choices, about an image or none; ``hint`` stands before the question.

    ``answer`` is the place of a choice from 0 where it is a number, else the choice's letter, text
    or place.
    """
    given = record.get("image")
    about = () if given is None else pictures(given)
    if isinstance(about, Problem):
        yield about
    else:
        exchange = _chosen(record)
        yield exchange if isinstance(exchange, Problem) else annotation(record, about, [exchange])


def read_aokvqa(record: Record) -> Iterator[Annotation | Problem]:
    """A-OKVQA's question with choices, about a photo of COCO."""
    yield single(record, _photo(record), _chosen(record))


def read_ai2d(record: Record) -> Iterator[Annotation | Problem]:
    """AI2D's questions about a diagram: texts with ``answerTexts`` and ``correctAnswer``."""
    questions, about = record.get("questions"), pictures(record.get("imageName"))
    if isinstance(about, Problem):
        yield about
        return
    if not isinstance(questions, Mapping) or not questions:
        yield Problem("question_missing", "questions: holds none")
        return
    exchanges, problems = sorted_out(_of_diagram(*question) for question in questions.items())
    yield from problems
    if exchanges:
        yield annotation(record, about, exchanges, name=text_of(about[0]))


def read_vqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a photo of COCO, with the answer that most people gave.

    The annotations and the questions of VQAv2 and OK-VQA are two files, to be joined on
    ``question_id``. Only VQAv2 says which answer is the most frequent, as
    ``multiple_choice_answer``.
    """
    said, answers = record.get("multiple_choice_answer"), record.get("answers")
    given = list(answers) if isinstance(answers, list | tuple) else [answers]
    label = majority(given) if said is None else stated(said)
    name = text_of(record.get("question_id"))
    yield single(record, _photo(record), asked(record.get("question"), label), name)


def read_gqa(record: Record) -> Iterator[Annotation | Problem]:
    """A question about a photo of Visual Genome, with GQA's short answer."""
    number = text_of(record.get("imageId"))
    image = image_of(record.get("image")) or (f"gqa/images/{number}.jpg" if number else None)
    exchange = asked(record.get("question"), stated(record.get("answer")))
    yield single(record, image, exchange, text_of(record.get("_key")))


def coco_photo(image_id: object) -> str | None:
    """The name of a photo of COCO's training set; None where ``image_id`` is no number of one.

    Example:
        >>> coco_photo(299207)
        'coco/train2017/000000299207.jpg'
    """
    if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit():
        image_id = int(image_id) if len(image_id) <= _DIGITS else None
    if isinstance(image_id, bool) or not isinstance(image_id, int):
        return None
    return f"coco/train2017/{image_id:0{_DIGITS}d}.jpg" if 0 <= image_id < 10**_DIGITS else None


def _photo(record: Record) -> str | bytes | None:
    return image_of(record.get("image")) or coco_photo(record.get("image_id"))


def _chosen(record: Record) -> Exchange | Problem:
    split = text_of(record.get("split"))
    if split is not None and not split.casefold().startswith("train"):
        return Problem("not_training", f"is of the split {split}")
    hint, question = text_of(record.get("hint")), text_of(record.get("question"))
    whole = f"{hint}\n{question}" if hint and question else question
    return _with_choices(whole, record.get("choices"), record.get("answer"))


def _of_diagram(question: object, held: object) -> Exchange | Problem:
    told = held if isinstance(held, Mapping) else {}
    return _with_choices(question, told.get("answerTexts"), told.get("correctAnswer"))


def _with_choices(question: object, given: object, answer: object) -> Exchange | Problem:
    choices = choices_of(given)
    if isinstance(choices, Problem):
        return choices
    return with_choices(asked(question, _label(answer, choices)), choices)


def _label(answer: object, choices: tuple[str, ...]) -> Label | Problem:
    """A number is a place even where the choices are numbers, which its text could not tell."""
    if isinstance(answer, bool) or not isinstance(answer, int):
        return choice_of(answer, choices, numbered=True)
    if not 0 <= answer < len(choices):
        return Problem("label_outside_choices", f"{text_of(answer)}, of {len(choices)} choices")
    if choices.count(choices[answer]) > 1:
        return Problem("choices_repeated", f"'{choices[answer]}' stands there more than once")
    return Label(choices[answer])


LAYOUTS: dict[str, Layout] = {
    "choices": Layout(
        read_choices,
        needs=("question", "choices", "answer"),
        may_have=("id", "group", "image", "hint", "split"),
    ),
    "aokvqa": Layout(
        read_aokvqa,
        needs=("question", "choices", "answer"),
        may_have=("id", "group", "image", "image_id", "split"),
    ),
    "ai2d": Layout(read_ai2d, needs=("imageName", "questions"), may_have=("group",)),
    "vqa_joined": Layout(
        read_vqa,
        needs=("question", "question_id"),
        may_have=("image_id", "image", "multiple_choice_answer", "answers", "group"),
    ),
    "gqa": Layout(
        read_gqa, needs=("question", "answer"), may_have=("imageId", "image", "_key", "id", "group")
    ),
}

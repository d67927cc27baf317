"""Captions and answers by an engine, greedily."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vila2data.engines import Captioner, Request, Result, Sampling
from vila2data.errors import RunFailed
from vila2data.prompts.catalog import Prompt

from .scenes import Scene

OnText = Callable[[int], None]

_MAX_ANSWER_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Written:
    """Results of the engine: a caption a scene, and an answer a question, scene by scene."""

    captions: Sequence[Result]
    answers: Sequence[Sequence[Result]]

    def failures(self) -> dict[str, int]:
        """How many texts could not be written, by what was to be written and reason."""
        counts: dict[str, int] = {}
        answers = [result for some in self.answers for result in some]
        for what, results in (("caption", self.captions), ("answer", answers)):
            for result in results:
                if result.finish_reason == "error":
                    reason = f"{what}: {result.error_reason}"
                    counts[reason] = counts.get(reason, 0) + 1
        return counts


def text_of(result: Result) -> str | None:
    """What was written; None where that failed."""
    return None if result.finish_reason == "error" else result.text


def write_texts(
    engine: Captioner, scenes: Sequence[Scene], prompt: Prompt, max_tokens: int, on_text: OnText
) -> Written:
    """A caption of each scene and an answer to each of its questions, greedily; closes the engine.

    Args:
        engine: is asked for all captions, then for all answers.
        max_tokens: of a caption; an answer has at most 12.
        on_text: told of each text.

    Raises:
        RunFailed: fewer than two captions were written.
    """
    to_caption = [(scene, prompt.text) for scene in scenes]
    to_answer = [(scene, asked.question) for scene in scenes for asked in scene.questions]
    try:
        captions = _generated(engine, to_caption, max_tokens, on_text)
        answers = iter(_generated(engine, to_answer, _MAX_ANSWER_TOKENS, on_text))
    finally:
        engine.close()
    if sum(result.finish_reason != "error" for result in captions) < 2:
        told = next(r for r in captions if r.finish_reason == "error")
        raise RunFailed(
            f"fewer than two captions could be written: {told.error_reason} {told.error_detail}"
        )
    return Written(captions, [[next(answers) for _ in scene.questions] for scene in scenes])


def _generated(
    engine: Captioner, asked: Sequence[tuple[Scene, str]], max_tokens: int, on_text: OnText
) -> list[Result]:
    """A result for each, in order."""
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    requests = (
        Request(number, scene.image, text, sampling, key=scene.key)
        for number, (scene, text) in enumerate(asked)
    )
    results: dict[int, Result] = {}
    for result in engine.generate(requests):
        results[result.index] = result
        on_text(1)
    return [results[number] for number in range(len(asked))]

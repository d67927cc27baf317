"""Evaluates a checkpoint on the config `test` of a build of `scenes`.

OUT.json               the figures, and what they were computed from
OUT-captions.parquet   a row a scene: caption, reference, losses
OUT-answers.parquet    a row a question: answer as generated, and as chosen where that was done
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data import registry
from vila2data.build.manifest import MANIFEST_FILE
from vila2data.corpus.identity import corpus_source
from vila2data.errors import BadInput
from vila2data.files import appearing, file_sha256, write_text
from vila2data.optional import require
from vila2data.prompts.catalog import Prompt
from vila2data.prompts.catalog import prompt as prompt_of
from vila2data.runfolder import refuse_differences

from .answers import answer_figures, choice_figures
from .captions import caption_figures, shifted
from .evaluation import EVALUATION_VERSION, Evaluation, read_evaluation
from .figures import Figure
from .generation import OnText, Written, text_of, write_texts
from .scenes import CHOICE_KINDS, Scene, Vocabulary, manifest_of, read_scenes, read_vocabulary

if TYPE_CHECKING:
    from .likelihood import Likelihood

_CAPTIONS = pa.schema(
    {
        "key": pa.string(),
        "caption": pa.string(),
        "finish_reason": pa.string(),
        "num_tokens": pa.int32(),
        "reference": pa.string(),
        "loss": pa.float64(),
        "loss_shuffled": pa.float64(),
        "reference_tokens": pa.int32(),
    }
)
_ANSWERS = pa.schema(
    {
        "key": pa.string(),
        "kind": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "generated": pa.string(),
        "chosen": pa.string(),
    }
)


def evaluate(
    checkpoint: str | Path,
    scenes: Path,
    corpus: Path,
    *,
    samples: int | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    prompt: str = "long-v1",
    max_tokens: int = 256,
    out: Path | None = None,
    on_text: OnText = lambda count: None,
) -> Evaluation:
    """Writes captions and answers, greedily, scores texts, and computes every figure.

    Args:
        checkpoint: folder, or name on the Hub.
        scenes: build of `scenes`.
        corpus: its test images.
        samples: the first so many scenes; all where None.
        batch_size: does not shape the figures beyond rounding; nor does ``threads``.
        threads: of torch on a CPU; its own number where None.
        prompt: id of the caption's prompt.
        max_tokens: of a caption; an answer has at most 12.
        out: file NAME.json; two parquet files appear beside it. Nothing is written where None. One
            that is finished is read instead.
        on_text: told of each caption, answer and scored text.

    Raises:
        BadInput: checkpoint, prompt or ``out`` cannot be used.
        BuildError: the build cannot be read, or is not of `scenes`.
        CorpusError: the corpus is none, or holds no image of the build.
        RunRefused: ``out`` was computed from something else.
        RunFailed: hardly a text was written, or the disk is full.
    """
    if out is not None and (out.suffix != ".json" or out.is_dir()):
        raise BadInput(f"out: {out}: must be a file NAME.json")
    asked = prompt_of(prompt)
    engine_class = registry.load("engines", "transformers")
    settings = {"model": str(checkpoint), "batch_size": batch_size, "threads": threads}
    config = engine_class.Config(**settings)
    if problems := config.problems():
        raise BadInput(problems[0].replace("engine.model", "checkpoint"))
    inputs = _inputs(config, scenes, corpus, asked, samples=samples, max_tokens=max_tokens)
    if out is not None and out.is_file():
        found = read_evaluation(out)
        refuse_differences(out, found.inputs, inputs, remedy="Give another --out.")
        return found
    vocabulary = read_vocabulary(scenes)
    used, rejected = read_scenes(scenes, corpus, samples)
    written = write_texts(engine_class(config), used, asked, max_tokens, on_text)
    scored = _scored(str(checkpoint), used, vocabulary, asked, batch_size, on_text)
    evaluation = Evaluation(
        inputs=inputs,
        scenes=len(used),
        rejected=rejected | written.failures(),
        figures=_figures(used, vocabulary, written, scored),
    )
    if out is not None:
        _write(out, evaluation, used, written, scored)
    return evaluation


def _inputs(
    config: Any, scenes: Path, corpus: Path, prompt: Prompt, **limits: int | None
) -> dict[str, Any]:
    """All that shapes the figures."""
    manifest = manifest_of(scenes)
    return {
        "evaluation_version": EVALUATION_VERSION,
        "checkpoint": config.shaping(),
        "scenes": {
            "version": manifest.version,
            "manifest_sha256": file_sha256(scenes / MANIFEST_FILE),
        },
        "corpus": corpus_source(corpus),
        "prompt": {"id": prompt.id, "sha256": prompt.sha256},
        **limits,
    }


@dataclass(frozen=True, slots=True)
class _Scored:
    """Losses of each scene's reference given its own and another image, and chosen answers."""

    losses: Sequence["Likelihood | None"]
    losses_shuffled: Sequence["Likelihood | None"]
    chosen: Sequence[Sequence[str | None]]


def _scored(
    checkpoint: str,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    prompt: Prompt,
    batch_size: int,
    on_text: OnText,
) -> _Scored:
    require("torch", extra="train")
    from .likelihood import Scorer, choose, reference_losses

    scorer = Scorer(checkpoint, batch_size=batch_size)
    count = len(scenes)
    own = reference_losses(scorer, scenes, range(count), prompt.text)
    on_text(count)
    other = reference_losses(scorer, scenes, shifted(count), prompt.text)
    on_text(count)
    return _Scored(own, other, choose(scorer, scenes, vocabulary, on_text))


def _figures(
    scenes: Sequence[Scene], vocabulary: Vocabulary, written: Written, scored: _Scored
) -> dict[str, Figure]:
    from .likelihood import loss_figures

    captioned = [
        (result.text, scene)
        for result, scene in zip(written.captions, scenes, strict=True)
        if result.finish_reason != "error"
    ]
    texts, of_scenes = zip(*captioned, strict=True)
    answers = [[text_of(result) for result in results] for results in written.answers]
    return {
        **caption_figures(texts, of_scenes, vocabulary),
        **answer_figures(answers, scenes),
        **choice_figures(scored.chosen, scenes, CHOICE_KINDS),
        **loss_figures(scored.losses, scored.losses_shuffled),
    }


def _write(
    out: Path, evaluation: Evaluation, scenes: Sequence[Scene], written: Written, scored: _Scored
) -> None:
    """Writes the texts first: where the figures stand, all is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    losses = zip(written.captions, scored.losses, scored.losses_shuffled, strict=True)
    captions = [
        {
            "key": scene.key,
            "caption": text_of(result),
            "finish_reason": result.finish_reason,
            "num_tokens": result.num_tokens,
            "reference": scene.reference,
            "loss": own and own.loss,
            "loss_shuffled": other and other.loss,
            "reference_tokens": own and own.tokens,
        }
        for scene, (result, own, other) in zip(scenes, losses, strict=True)
    ]
    answers = [
        {
            "key": scene.key,
            "kind": asked.kind,
            "question": asked.question,
            "answer": asked.answer,
            "generated": text_of(result),
            "chosen": chosen,
        }
        for scene, results, choices in zip(scenes, written.answers, scored.chosen, strict=True)
        for asked, result, chosen in zip(scene.questions, results, choices, strict=True)
    ]
    _write_rows(out.with_name(f"{out.stem}-captions.parquet"), captions, _CAPTIONS)
    _write_rows(out.with_name(f"{out.stem}-answers.parquet"), answers, _ANSWERS)
    write_text(out, evaluation.to_json())


def _write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    with appearing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)

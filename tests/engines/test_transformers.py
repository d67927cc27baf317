import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from feeding import STYLES, styled
from making import make_picture
from PIL import Image
from strangers import picture

from vila2data.engines import Request, Result, Sampling
from vila2data.engines.checkpoint import Chat, folder_revision
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.errors import BadInput, MissingExtra, RunFailed

torch = pytest.importorskip("torch")

PROMPTS = ("Describe the picture .", "a red circle", "What is on the left of the large box ?")


def engine_of(model: Path, **settings: Any) -> TransformersEngine:
    return TransformersEngine(TransformersConfig(model=str(model), dtype="float32", **settings))


def request_of(index: int, **sampling: Any) -> Request:
    asked = {"temperature": 0.0, "max_tokens": 24, "seed": index, **sampling}
    image = make_picture(index, exif_orientation=6 if index % 5 == 4 else None)
    return Request(index, image, PROMPTS[index % 3], Sampling(**asked), str(index))


def requests_of(count: int, temperature: float, top_p: float = 0.95) -> list[Request]:
    """Requests of different images, prompts and token limits."""
    return [
        request_of(i, temperature=temperature, top_p=top_p, max_tokens=10 + 12 * (i % 4))
        for i in range(count)
    ]


def by_index(results: Iterator[Result]) -> dict[int, Result]:
    return {result.index: result for result in results}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_result_does_not_depend_on_its_batch_mates(tiny_llava: Path, temperature: float) -> None:
    requests = requests_of(13, temperature)
    alone = by_index(engine_of(tiny_llava, batch_size=1).generate(requests))
    assert len(alone) == 13
    orders = {3: (requests[::-1],), 8: (requests, requests[::2] + requests[1::2])}
    for batch_size, given in orders.items():
        engine = engine_of(tiny_llava, batch_size=batch_size)
        for order in given:
            assert by_index(engine.generate(order)) == alone
    if temperature:
        assert {r.finish_reason for r in alone.values()} == {"stop", "length"}


def test_mixed_samplings_share_a_batch(tiny_llava: Path) -> None:
    mixed = [
        request_of(i, temperature=t, top_p=p, max_tokens=m)
        for i, (t, p, m) in enumerate(
            [(0.0, 1.0, 4), (1.0, 0.5, 30), (2.0, 1.0, 1), (0.3, 0.9, 60)]
        )
    ]
    together = by_index(engine_of(tiny_llava, batch_size=4).generate(mixed))
    assert together == by_index(engine_of(tiny_llava, batch_size=1).generate(mixed))
    assert all(together[r.index].num_tokens <= r.sampling.max_tokens for r in mixed)


def test_greedy_equals_a_plain_call_of_the_model(tiny_llava: Path) -> None:
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(tiny_llava)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    requests = [request_of(i, max_tokens=20) for i in range(6)]
    results = by_index(engine_of(tiny_llava, batch_size=6).generate(requests))
    for request in requests:
        content = [{"type": "image"}, {"type": "text", "text": request.prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(images=[request.picture()], text=[text], return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=20)
        new = ids[0, inputs["input_ids"].shape[1] :].tolist()
        ended = processor.tokenizer.eos_token_id in new
        told = results[request.index]
        assert told.text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert told.num_tokens == len(new)
        assert told.num_prompt_tokens == inputs["input_ids"].shape[1]
        assert told.finish_reason == ("stop" if ended else "length")


def test_stop_and_length_and_counts_follow_the_generated_ids(tiny_llava: Path) -> None:
    engine = engine_of(tiny_llava)
    end = engine._chat.tokenizer.eos_token_id
    word = engine._chat.tokenizer.convert_tokens_to_ids("red")
    pad = engine._chat.tokenizer.pad_token_id
    request = request_of(0, max_tokens=3)
    cases = {
        (word, word, word): ("red red red", "length", 3),
        (word, word, end): ("red red", "stop", 3),
        (word, end, pad): ("red", "stop", 2),
        (end, pad, pad): ("", "stop", 1),
        (word, word, word, end): ("red red red", "length", 3),  # a batch mate may write longer
    }
    for ids, expected in cases.items():
        told = engine._result(request, list(ids), 9)
        assert (told.text, told.finish_reason, told.num_tokens) == expected
        assert told.num_prompt_tokens == 9


def test_special_tokens_in_a_text_stay_visible(tiny_llava: Path) -> None:
    engine = engine_of(tiny_llava)
    ids = engine._chat.tokenizer.convert_tokens_to_ids(["a", "<image>", "red"])
    assert "<image>" in engine._result(request_of(0), ids, 9).text


def test_a_seed_gives_one_text_and_other_seeds_others(tiny_llava: Path) -> None:
    engine = engine_of(tiny_llava)
    image = make_picture(0)
    requests = [
        Request(i, image, PROMPTS[0], Sampling(1.0, 1.0, 24, seed=i % 6)) for i in range(12)
    ]
    texts = [result.text for result in engine.generate(requests)]
    assert texts[:6] == texts[6:]
    assert len(set(texts)) == 6


def test_the_checkpoints_own_generation_settings_do_not_act(
    tiny_llava: Path, tmp_path: Path
) -> None:
    bent = tmp_path / "tiny-llava"
    shutil.copytree(tiny_llava, bent)
    settings = json.loads((bent / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9}
    settings |= {"do_sample": True, "temperature": 0.01, "top_k": 1, "num_beams": 2}
    (bent / "generation_config.json").write_text(json.dumps(settings))
    requests = requests_of(6, 1.0)
    plain = by_index(engine_of(tiny_llava).generate(requests))
    own = by_index(engine_of(bent).generate(requests))
    assert {i: r.text for i, r in own.items()} == {i: r.text for i, r in plain.items()}


def test_requests_are_drawn_two_batches_ahead_at_most(tiny_llava: Path) -> None:
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for index in range(40):
            drawn += 1
            yield request_of(index, max_tokens=2)

    results = engine_of(tiny_llava, batch_size=4).generate(requests())
    for taken, _ in enumerate(islice(results, 12)):
        assert drawn <= (taken // 4 + 2) * 4
    results.close()
    assert drawn < 40


def test_an_image_that_cannot_be_used_gives_a_named_error_and_stops_no_other(
    tiny_llava: Path,
) -> None:
    narrow = io.BytesIO()
    Image.new("RGB", (1, 3000)).save(narrow, "PNG")
    images: list[Any] = [
        make_picture(0),
        make_picture(0)[:300],
        b"",
        narrow.getvalue(),
        Image.new("L", (30, 20)),
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (3, 40)),
    ]
    requests = [
        Request(i, image, PROMPTS[0], Sampling(max_tokens=3)) for i, image in enumerate(images)
    ]
    results = by_index(engine_of(tiny_llava, batch_size=7).generate(requests))
    assert {i: r.error_reason for i, r in results.items() if r.finish_reason == "error"} == {
        1: "image_undecodable",
        2: "image_empty",
        3: "image_too_narrow",
    }
    assert not results[1].retriable
    only = by_index(engine_of(tiny_llava, batch_size=7).generate([requests[0]]))
    assert results[0] == only[0]


def test_an_image_that_the_processor_refuses_stops_no_other(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_llava, batch_size=4)
    prepare = engine._chat.processor

    def refusing(*, images: list[Any], **options: Any) -> Any:
        if any(
            picture.size == Image.open(io.BytesIO(make_picture(2))).size for (picture,) in images
        ):
            raise ValueError("mean must have 1\nelements")
        return prepare(images=images, **options)

    for name in ("tokenizer", "apply_chat_template"):
        setattr(refusing, name, getattr(prepare, name))
    expected = by_index(engine.generate([request_of(i) for i in range(6)]))
    monkeypatch.setattr(engine, "_chat", replace(engine._chat, processor=refusing))
    results = by_index(engine.generate([request_of(i) for i in range(6)]))
    assert results[2].error_reason == "image_unprocessable"
    assert results[2].error_detail == "ValueError: mean must have 1 elements"
    assert {**results, 2: expected[2]} == expected


def test_an_error_in_the_requests_is_raised_and_nothing_hangs(tiny_llava: Path) -> None:
    def requests() -> Iterator[Request]:
        yield request_of(0, max_tokens=2)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(engine_of(tiny_llava, batch_size=1).generate(requests()))


def test_a_device_without_memory_is_told_what_to_lower(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    engine = engine_of(tiny_llava, batch_size=2)
    monkeypatch.setattr(engine._model, "generate", full)
    with pytest.raises(RunFailed, match=r"batches of 2: lower engine\.batch_size"):
        list(engine.generate([request_of(i) for i in range(2)]))


def test_a_checkpoint_without_chat_template_is_refused_unless_one_is_given(
    tiny_llava: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llava, bare)
    template = (bare / "chat_template.jinja").read_text()
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match=r"bare has no chat template; give one as engine\.chat"):
        engine_of(bare)
    requests = [request_of(0)]
    given = by_index(engine_of(bare, chat_template=template).generate(requests))
    assert given[0].text == by_index(engine_of(tiny_llava).generate(requests))[0].text


def test_a_missing_or_broken_checkpoint_is_named_in_one_line(tmp_path: Path) -> None:
    config = TransformersConfig(model=str(tmp_path / "nothing"))
    assert config.problems() == [f"engine.model: {tmp_path}/nothing: no such checkpoint folder"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty cannot be loaded: ") as told:
        engine_of(tmp_path / "empty")
    assert "\n" not in str(told.value)


def test_missing_torch_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"torch is not installed.*'vila2data\[vlm\]'"):
        TransformersEngine(TransformersConfig(model=str(tmp_path)))


def test_the_revision_is_the_files_hash_wherever_the_folder_lies(
    tiny_llava: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "tiny-llava"
    shutil.copytree(tiny_llava, copy)
    (copy / "README.md").write_text("notes do not change a model")
    (copy / ".cache").write_text("nor do hidden files")
    here = TransformersConfig(model=str(tiny_llava))
    there = TransformersConfig(model=str(copy), device="cpu", batch_size=3, threads=1)
    assert here.shaping() == there.shaping()
    assert here.author.captioner == "tiny-llava"
    named = TransformersConfig(model=str(tiny_llava), captioner="VILA_1")
    assert named.author.captioner == named.shaping()["model"] == "VILA_1"
    assert named.shaping() | {"model": "tiny-llava"} == here.shaping()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert folder_revision(copy) != here.author.captioner_revision


def test_the_global_generator_is_left_alone(tiny_llava: Path) -> None:
    engine = engine_of(tiny_llava)
    before = torch.random.get_rng_state()
    list(engine.generate(requests_of(3, 1.0)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("adds_start", [True, False])
@pytest.mark.parametrize("style", ["vicuna", "llama3"])
def test_a_template_that_writes_the_start_token_gets_no_second_one(
    style: str, adds_start: bool
) -> None:
    engine = object.__new__(TransformersEngine)  # what is fed, without a model to feed
    engine._chat = Chat(styled(style, adds_start=adds_start), STYLES[style][0], [0])
    ids = engine._inputs([request_of(0), request_of(1)], [picture(0), picture(1)])["input_ids"]
    expected = 1 if adds_start or style == "llama3" else 0
    assert (ids == engine._chat.tokenizer.bos_token_id).sum(dim=1).tolist() == [expected] * 2

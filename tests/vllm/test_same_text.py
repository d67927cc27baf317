"""vLLM writes what transformers writes; in an environment of its own: `make test-vllm`."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_models import COMBINATIONS, make_decisive_model

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.shared, pytest.mark.timeout(180)]

PHOTOS = 32
QUESTION = "what is on the left of the large box"
SETTINGS = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 8}
CASES = [(a, t, "llama") for a, t in COMBINATIONS] + [("llava", "clip", "qwen3")]


@pytest.fixture(scope="module", autouse=True)
def _small_and_in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Image.Image]:
    paths = sorted((shared_data / "captions" / "coco" / "images").glob("*.jpg"))[:PHOTOS]
    assert len(paths) == PHOTOS
    return [Image.open(path).convert("RGB") for path in paths]


def by_transformers(model: Path, photos: list[Image.Image]) -> list[str]:
    import torch

    from vila2data.engines import Request, Sampling
    from vila2data.engines.transformers import TransformersConfig, TransformersEngine

    torch.set_num_threads(1)
    config = TransformersConfig(model=str(model), dtype="float32", batch_size=1)
    sampling = Sampling(temperature=0.0, max_tokens=24, seed=0)
    asked = [Request(i, photo, QUESTION, sampling, str(i)) for i, photo in enumerate(photos)]
    return [result.text for result in TransformersEngine(config).generate(asked)]


def by_vllm(model: Path, photos: list[Image.Image]) -> list[str]:
    from vllm import LLM, SamplingParams

    llm: Any = LLM(str(model), **SETTINGS, limit_mm_per_prompt={"image": 1})
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_pil", "image_pil": photo},
                    {"type": "text", "text": QUESTION},
                ],
            }
        ]
        for photo in photos
    ]
    greedy = SamplingParams(temperature=0.0, max_tokens=24)
    texts = [output.outputs[0].text.strip() for output in llm.chat(chats, greedy, use_tqdm=False)]
    del llm
    gc.collect()
    return texts


@pytest.mark.parametrize(("architecture", "tower", "language"), CASES)
def test_greedy_texts_are_the_same(
    architecture: str, tower: str, language: str, photos: list[Image.Image], tmp_path: Path
) -> None:
    model = make_decisive_model(tmp_path, architecture, tower, language)
    expected = by_transformers(model, photos)
    assert len(set(expected)) >= PHOTOS // 8, expected  # the photos are seen
    assert by_vllm(model, photos) == expected


def test_the_tiny_model_of_tests_too(photos: list[Image.Image], tmp_path: Path) -> None:
    from vila2data.training.tiny import make_tiny_llava

    model = make_tiny_llava(tmp_path / "tiny")
    assert by_vllm(model, photos) == by_transformers(model, photos)


@pytest.mark.parametrize("architecture", ["llava", "vila"])
def test_what_a_nano_loop_begins_with_too(
    architecture: str, photos: list[Image.Image], tmp_path: Path
) -> None:
    from vila2data.training.architectures.assemble import assemble
    from vila2data.training.architectures.save import save_checkpoint
    from vila2data.training.architectures.spec import ModelSpec
    from vila2data.training.nano import foundation_folder

    parts = {part: str(foundation_folder() / part) for part in ("vision", "language")}
    spec = ModelSpec.model_validate({"architecture": architecture, **parts})
    model, processor = assemble(spec)
    model.model.multi_modal_projector.linear_2.weight.data.mul_(4)  # it is random; see the photos
    save_checkpoint(model, processor, tmp_path / "model")
    texts = by_transformers(tmp_path / "model", photos)
    assert len(set(texts)) >= PHOTOS // 8, texts  # the photos are seen
    assert by_vllm(tmp_path / "model", photos) == texts


def test_a_checkpoint_names_no_code_to_run(tmp_path: Path) -> None:
    model = make_decisive_model(tmp_path, "vila", "siglip", "llama")
    config = json.loads((model / "config.json").read_text())
    assert config["architectures"] == ["Lfm2VlForConditionalGeneration"]
    assert "auto_map" not in config

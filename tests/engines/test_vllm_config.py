"""Settings of the engine `vllm`, which need no vLLM; what it writes is tested in tests/vllm."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vila2data.engines import EngineConfig
from vila2data.engines.vllm import VllmConfig, VllmEngine
from vila2data.errors import MissingExtra


def config_of(**settings: Any) -> VllmConfig:
    return VllmConfig(model="org/model", **settings)


def test_a_recipe_finds_it_by_its_name() -> None:
    assert EngineConfig.resolve({"name": "vllm"}) is VllmConfig


def test_what_changes_only_its_speed_shapes_no_text() -> None:
    plain = config_of().shaping()
    fast = {"max_num_seqs": 8, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}
    assert config_of(engine_args=fast, in_flight=3, decoding=1, recycle_after=9).shaping() == plain
    for other in (
        {"engine_args": {"quantization": "fp8"}},
        {"engine_args": {"max_model_len": 512}},
        {"repetition": {"max_pattern_size": 4, "min_count": 3}},
        {"batch_invariant": True},
        {"dtype": "bfloat16"},
        {"revision": "main"},
    ):
        assert config_of(**other).shaping() != plain, other


@pytest.mark.parametrize("name", ["model", "dtype", "trust_remote_code", "generation_config"])
def test_what_the_engine_fills_in_is_refused_as_an_argument(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is filled in"):
        config_of(engine_args={name: "x"})


def test_a_folder_that_is_not_there_is_told_before_the_start(tmp_path: Path) -> None:
    (told,) = VllmConfig(model=str(tmp_path / "none")).problems()
    assert "no such checkpoint folder" in told


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_extra_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"vila2data\[vllm\]"):
        VllmEngine(config_of())
    assert config_of().author.engine == "vllm not installed"

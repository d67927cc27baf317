import logging
from pathlib import Path
from typing import Any

import pytest
from making import make_picture
from PIL import Image
from pydantic import ValidationError
from tiny_models import COMBINATIONS, PATCH_PX, SIDE_PX, tiny_language, tiny_spec, tiny_vision

from vila2data.engines import Request, Sampling
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.errors import BadInput

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")
torch.set_num_threads(1)

from vila2data.training.architectures.assemble import assemble, load, parts_of  # noqa: E402
from vila2data.training.architectures.llava import grid_pinpoints  # noqa: E402
from vila2data.training.architectures.save import save_checkpoint  # noqa: E402
from vila2data.training.architectures.spec import ModelSpec  # noqa: E402
from vila2data.training.architectures.templates import VICUNA, chat_template  # noqa: E402
from vila2data.training.architectures.towers import (  # noqa: E402
    as_siglip2,
    load_tower,
    with_side,
)
from vila2data.training.tiny import make_tiny_llava, tiny_tokenizer  # noqa: E402

combinations = pytest.mark.parametrize(("architecture", "tower"), COMBINATIONS)
QUESTION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}
]


def prompt_of(processor: Any) -> str:
    return processor.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)


def inputs_of(processor: Any, width: int, height: int) -> Any:
    picture = Image.effect_noise((width, height), 90).convert("RGB")
    return processor(images=[[picture]], text=[prompt_of(processor)], return_tensors="pt")


def image_tokens(processor: Any, inputs: Any) -> int:
    return int((inputs["input_ids"] == processor.image_token_id).sum())


def same_weights(left: Any, right: Any) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- whole models ---


@combinations
def test_a_checkpoint_loads_bit_equal_and_saves_the_same_bytes(
    architecture: str, tower: str, tmp_path: Path
) -> None:
    model, processor = assemble(tiny_spec(tmp_path, architecture, tower))
    save_checkpoint(model, processor, tmp_path / "first")
    loaded, its_processor = load(ModelSpec(checkpoint=str(tmp_path / "first")))
    assert type(loaded) is type(model)
    assert same_weights(loaded, model)
    save_checkpoint(loaded, its_processor, tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert {"model.safetensors", "generation_config.json", "chat_template.jinja"} <= set(names)
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in names:
        first, second = (tmp_path / f / name for f in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


@combinations
def test_the_engine_captions_with_every_model(
    architecture: str, tower: str, tmp_path: Path
) -> None:
    model, processor = assemble(tiny_spec(tmp_path, architecture, tower))
    save_checkpoint(model, processor, tmp_path / "model")
    engine = TransformersEngine(
        TransformersConfig(model=str(tmp_path / "model"), dtype="float32", batch_size=2)
    )
    sampling = Sampling(temperature=0.0, max_tokens=6, seed=0)
    asked = [Request(i, make_picture(i), "a red circle", sampling, str(i)) for i in range(2)]
    results = list(engine.generate(asked))
    assert [r.finish_reason in ("stop", "length") for r in results] == [True, True], results
    assert all(r.num_tokens for r in results)


@combinations
def test_parts_hold_every_parameter_once(architecture: str, tower: str, tmp_path: Path) -> None:
    model, _ = assemble(tiny_spec(tmp_path, architecture, tower))
    parts = parts_of(model)
    held = [id(p) for part in parts.values() for p in part.values()]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    inner = model.model
    assert {id(p) for p in parts["vision"].values()} == {
        id(p) for p in inner.vision_tower.parameters()
    }
    projector = {id(p) for p in inner.multi_modal_projector.parameters()}
    if architecture == "llava_next":
        projector.add(id(inner.image_newline))
    assert {id(p) for p in parts["projector"].values()} == projector
    assert id(model.lm_head.weight) in {id(p) for p in parts["language"].values()}


def test_a_seed_gives_one_model_and_leaves_the_callers_state(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, _ = assemble(tiny_spec(tmp_path, "llava_next", seed=1))
    assert torch.equal(torch.rand(3), expected)
    again, _ = assemble(tiny_spec(tmp_path, "llava_next", seed=1))
    other, _ = assemble(tiny_spec(tmp_path, "llava_next", seed=2))
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_given_weights_are_saved_in_place_of_the_models(tmp_path: Path) -> None:
    model, processor = assemble(tiny_spec(tmp_path, "vila", "siglip"))
    halved = {name: weight / 2 for name, weight in model.state_dict().items()}
    save_checkpoint(model, processor, tmp_path / "model", state_dict=halved)
    loaded, _ = load(ModelSpec(checkpoint=str(tmp_path / "model")))
    theirs = loaded.state_dict()
    assert all(torch.equal(theirs[name], halved[name]) for name in halved)


def test_weights_in_several_files_load_bit_equal(tmp_path: Path) -> None:
    model, processor = assemble(tiny_spec(tmp_path, "llava"))
    save_checkpoint(model, processor, tmp_path / "model", max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    loaded, _ = load(ModelSpec(checkpoint=str(tmp_path / "model")))
    assert same_weights(loaded, model)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, "vila", "siglip")
    language = {**tiny_language(), "model_type": "qwen3", "tie_word_embeddings": True}
    model, processor = assemble(spec.model_copy(update={"language": language}))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    save_checkpoint(model, processor, tmp_path / "model")
    loaded, _ = load(ModelSpec(checkpoint=str(tmp_path / "model")))
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert same_weights(loaded, model)


def test_weights_have_the_type_that_is_asked_for(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, "llava_next").model_copy(update={"dtype": "bfloat16"})
    model, _ = assemble(spec)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- LLaVA ---


def test_resolutions_are_those_of_the_paper() -> None:
    side = 224
    expected = {(1, n) for n in range(1, 7)} | {(n, 1) for n in range(1, 7)}
    expected |= {(2, 2), (2, 3), (3, 2)}
    found = grid_pinpoints(side)
    assert sorted(map(tuple, found)) == sorted((r * side, c * side) for r, c in expected)
    assert [448, 672] in found  # the paper's maximum: six squares
    assert max(height * width for height, width in found) == 448 * 672


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (32, 32, 4, 4),  # 1x1
        (64, 64, 8, 8),  # 2x2
        (32, 64, 8, 4),  # 2 rows of squares
        (192, 32, 4, 24),  # 1x6
        (32, 192, 24, 4),
        (64, 48, 6, 8),  # 2x2, a row of padding off at both ends
        (96, 64, 8, 12),  # 2x3
        (640, 480, 8, 10),  # 2x3 shows more than 2x2 does; 85.3 px of 96: a column off at both ends
        (16, 16, 4, 4),  # never larger than needed
    ],
)
def test_an_image_has_a_token_per_unpadded_patch_a_token_per_row_and_its_overview(
    tower: str, width: int, height: int, rows: int, columns: int, tmp_path: Path
) -> None:
    model, processor = assemble(tiny_spec(tmp_path, "llava_next", tower))
    inputs = inputs_of(processor, width, height)
    overview = (SIDE_PX // PATCH_PX) ** 2
    assert image_tokens(processor, inputs) == rows * columns + rows + overview
    with torch.no_grad():
        model(**inputs)  # refuses where tokens and features differ in number


def test_llava_reads_the_penultimate_layer_and_no_class_token(tmp_path: Path) -> None:
    for tower, strategy in (("clip", "default"), ("siglip", "full")):
        model, processor = assemble(tiny_spec(tmp_path, "llava", tower))
        assert model.config.vision_feature_layer == -2
        assert model.config.vision_feature_select_strategy == strategy
        inputs = inputs_of(processor, 50, 40)
        assert image_tokens(processor, inputs) == (SIDE_PX // PATCH_PX) ** 2
        with torch.no_grad():
            model(**inputs)


def test_llava_pads_to_a_square_with_the_mean_colour(tmp_path: Path) -> None:
    _, processor = assemble(tiny_spec(tmp_path, "llava"))
    picture = Image.new("RGB", (64, 32), "white")
    inputs = processor(images=[[picture]], text=["<image>"], return_tensors="pt")
    pixels = inputs["pixel_values"][0]  # (3, 32, 32)
    assert pixels[:, :6].abs().max() < 0.02
    assert pixels[:, 12:20].min() > 1


# --- VILA ---


@pytest.mark.parametrize("tower", ["siglip", "siglip2", "internvit"])
def test_vila_has_a_token_for_four_patches(tower: str, tmp_path: Path) -> None:
    model, processor = assemble(tiny_spec(tmp_path, "vila", tower))
    for width, height in ((32, 32), (50, 40), (300, 100)):
        inputs = inputs_of(processor, width, height)
        if tower == "internvit":
            patches = (inputs["pixel_values"].shape[-1] // PATCH_PX) ** 2
            assert inputs["pixel_values"].shape[0] == 1
        else:
            patches = int(inputs["spatial_shapes"].prod())
            assert len(inputs["spatial_shapes"]) == 1
        assert image_tokens(processor, inputs) * 4 == patches
        with torch.no_grad():
            model(**inputs)


@pytest.mark.parametrize("tower", ["siglip", "siglip2", "internvit"])
def test_a_token_of_vila_sees_its_2x2_patches_alone(tower: str, tmp_path: Path) -> None:
    model, _ = assemble(tiny_spec(tmp_path, "vila", tower))
    grid = 6
    features = torch.randn(1, grid, grid, 32, generator=torch.Generator().manual_seed(0))

    def tokens(features: Any) -> Any:
        with torch.no_grad():
            if tower == "internvit":
                features = model.model.pixel_shuffle(features, scale_factor=0.5)
            return model.model.multi_modal_projector(features).reshape(grid // 2, grid // 2, -1)

    before = tokens(features)
    for row in range(grid):
        for column in range(grid):
            bent = features.clone()
            bent[0, row, column] += 1
            changed = (tokens(bent) != before).any(-1).nonzero().tolist()
            assert changed == [[row // 2, column // 2]]


def test_a_grid_of_27_gives_196_tokens(tmp_path: Path) -> None:
    vision = {**tiny_vision("siglip"), "image_size": 27 * PATCH_PX + 3}
    spec = tiny_spec(tmp_path, "vila", "siglip").model_copy(update={"vision": vision})
    model, processor = assemble(spec)
    assert model.config.vision_config.num_patches == 27**2
    inputs = inputs_of(processor, 640, 640)
    assert image_tokens(processor, inputs) == 14 * 14
    with torch.no_grad():
        model(**inputs)


def test_siglip_in_the_form_of_siglip2_gives_the_same_features() -> None:
    torch.manual_seed(0)
    old = load_tower({**tiny_vision("siglip"), "image_size": 27 * PATCH_PX}, "float32")
    new = as_siglip2(old)
    pixels = torch.randn(2, 3, 216, 216)
    flat = pixels.reshape(2, 3, 27, 8, 27, 8).permute(0, 2, 4, 3, 5, 1).reshape(2, 729, 192)
    with torch.no_grad():
        expected = old.model(pixels).last_hidden_state
        found = new.model(
            pixel_values=flat,
            pixel_attention_mask=torch.ones(2, 729, dtype=torch.long),
            spatial_shapes=torch.tensor([[27, 27]] * 2),
        ).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- parts ---


@pytest.mark.parametrize(("tower", "architecture"), [(t, a) for a, t in COMBINATIONS])
def test_another_image_side_resizes_the_positions(
    tower: str, architecture: str, tmp_path: Path
) -> None:
    spec = tiny_spec(tmp_path, architecture, tower).model_copy(update={"image_side_px": 64})
    model, processor = assemble(spec)
    inputs = inputs_of(processor, 64, 64)
    tokens = {"llava": 64, "llava_next": 64 + 8 + 64, "vila": 16}[architecture]
    assert image_tokens(processor, inputs) == tokens
    with torch.no_grad():
        model(**inputs)


def test_resized_positions_keep_the_class_token_and_a_constant() -> None:
    for kind in ("clip", "internvit"):
        tower = load_tower(tiny_vision(kind), "float32")
        name = next(n for n in tower.model.state_dict() if "position_embedding" in n)
        table = tower.model.state_dict()[name].view(-1, 32)
        table[0], table[1:] = 3.0, 2.0
        resized = with_side(tower, 48).model.state_dict()[name].view(-1, 32)
        assert resized.shape == (37, 32)
        assert torch.equal(resized[0], table[0])
        torch.testing.assert_close(resized[1:], torch.full((36, 32), 2.0))


@pytest.fixture
def language(tmp_path: Path) -> Path:
    """A pretrained language model with its tokenizer, which has no token for images or padding."""
    folder = tmp_path / "language"
    tokenizer = tiny_tokenizer()
    settings = {k: v for k, v in tiny_language().items() if k != "model_type"}
    config = transformers.LlamaConfig(**settings, vocab_size=len(tokenizer), eos_token_id=2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def composite(kind: str, folder: Path) -> Any:
    """A saved model of images and text; its tower."""
    vision = {k: v for k, v in tiny_vision(kind).items() if k != "model_type"}
    text = {k: v for k, v in tiny_language().items() if k in vision}
    text |= {"vocab_size": 20, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    name = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}[kind]
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text)
    model = getattr(transformers, f"{name}Model")(config)
    model.save_pretrained(folder)
    return model.vision_model


@pytest.mark.parametrize(
    ("architecture", "kind"), [("llava", "clip"), ("llava", "siglip"), ("vila", "siglip2")]
)
def test_pretrained_parts_keep_their_weights(
    architecture: str, kind: str, language: Path, tmp_path: Path
) -> None:
    tower = composite(kind, tmp_path / "tower")
    (tmp_path / "tower" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "image_mean": [0.1, 0.2, 0.3]}'
    )
    spec = ModelSpec(
        architecture=architecture, vision=str(tmp_path / "tower"), language=str(language)
    )
    model, processor = load(spec)
    found = model.model.vision_tower.state_dict()
    weights = {k: v for k, v in tower.state_dict().items() if not k.startswith("head.")}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    source = transformers.LlamaForCausalLM.from_pretrained(language)
    layers = source.model.layers.state_dict()
    assert all(
        torch.equal(weight, layers[name])
        for name, weight in model.model.language_model.layers.state_dict().items()
    )
    old = source.get_input_embeddings().weight
    new = model.get_input_embeddings().weight
    assert torch.equal(new[: len(old)], old)
    assert len(new) == max(len(old), len(processor.tokenizer)) == len(model.lm_head.weight)
    assert torch.equal(model.lm_head.weight[: len(old)], source.lm_head.weight)
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]


def test_the_tower_of_a_whole_model_is_taken_out(language: Path, tmp_path: Path) -> None:
    donor, processor = assemble(tiny_spec(tmp_path, "vila", "internvit", seed=5))
    save_checkpoint(donor, processor, tmp_path / "donor")
    spec = ModelSpec(
        architecture="vila", vision=str(tmp_path / "donor"), language=str(language), seed=1
    )
    model, _ = load(spec)
    assert same_weights(model.model.vision_tower, donor.model.vision_tower)
    assert not same_weights(model.model.multi_modal_projector, donor.model.multi_modal_projector)


def test_a_tokenizer_without_padding_and_images_gets_both(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>"
    )
    bare.save_pretrained(tmp_path / "bare")
    spec = tiny_spec(tmp_path, "vila", "siglip")
    model, processor = assemble(spec.model_copy(update={"tokenizer": str(tmp_path / "bare")}))
    tokenizer = processor.tokenizer
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.padding_side == "right"
    assert tokenizer.tokenize("a<image>a") == ["a", "<image>", "a"]
    assert tokenizer.tokenize("<|image_start|><image><|image_end|>") == [
        *("<|image_start|>", "<image>", "<|image_end|>")
    ]
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


# --- chat templates ---


class TestChatTemplates:
    ANSWERED = (*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "it is"}]})

    def render(self, template: str, messages: Any, **more: Any) -> str:
        return tiny_tokenizer().apply_chat_template(
            list(messages), chat_template=template, tokenize=False, **more
        )

    def chosen(self, own: str | None, given: str | None = None) -> str:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = own
        return chat_template(given, tokenizer)

    def test_vicunas_ends_each_answer_and_its_prompt_begins_the_whole(self) -> None:
        template = self.chosen(None)
        assert template == VICUNA
        whole = self.render(template, self.ANSWERED)
        assert whole == "<s>USER: <image>\nwhat is it ASSISTANT: it is</s>"
        prompt = self.render(template, QUESTION, add_generation_prompt=True)
        assert whole.startswith(prompt)
        assert self.render(template, [{"role": "user", "content": "hi"}]) == "<s>USER: hi "

    def test_an_own_one_that_takes_parts_is_kept(self) -> None:
        own = (
            "{% for m in messages %}{% for p in m['content'] %}"
            "{{ '<image>' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
        )
        assert self.chosen(own) == own

    def test_an_own_one_of_texts_is_made_to_take_parts(self) -> None:
        own = (
            "{% for m in messages %}[{{ m['role'] }}] {{ m['content'].strip() }}"
            "{{ eos_token if m['role'] == 'assistant' }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        )
        template = self.chosen(own)
        assert template.endswith(own)
        whole = self.render(template, self.ANSWERED)
        assert whole == "[user] <image>\nwhat is it[assistant] it is</s>"
        texts = [{"role": "user", "content": "hi"}]
        assert self.render(template, texts) == self.render(own, texts) == "[user] hi"

    def test_one_that_cannot_is_replaced_aloud(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert self.chosen("{{ raise_exception('never') }}") == VICUNA
        assert "using Vicuna's" in caplog.text

    def test_a_given_one_comes_first(self) -> None:
        assert self.chosen("own", given="given") == "given"

    def test_the_tiny_models_ends_each_answer(self, tiny_llava: Path) -> None:
        processor = transformers.AutoProcessor.from_pretrained(tiny_llava)
        whole = processor.apply_chat_template(list(self.ANSWERED), tokenize=False)
        assert whole == "USER : <image> what is it ASSISTANT : it is </s> "
        assert prompt_of(processor) == "USER : <image> what is it ASSISTANT :"


def test_the_tiny_model_is_a_known_checkpoint(tmp_path: Path) -> None:
    folder = make_tiny_llava(tmp_path / "model")
    model, _ = load(ModelSpec(checkpoint=str(folder)))
    assert sum(map(len, parts_of(model).values())) == len(list(model.parameters()))


# --- bad input ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give checkpoint, or architecture, vision and language"),
        ({"checkpoint": "a/b", "vision": "c/d"}, "not both; remove vision"),
        ({"architecture": "llava", "vision": "a/b"}, "missing: language"),
        (
            {"architecture": "llava", "vision": "a/b", "language": {"model_type": "llama"}},
            "give tokenizer",
        ),
        (
            {"architecture": "llava", "vision": {"hidden_size": 3}, "language": "a/b"},
            "vision is a config without model_type",
        ),
        ({"architecture": "flamingo", "vision": "a/b", "language": "c/d"}, "'llava'"),
    ],
)
def test_a_spec_says_one_thing(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSpec(**given)


def test_missing_folders_are_told_before_the_start() -> None:
    spec = ModelSpec(architecture="llava", vision="./none", language="/no/where", tokenizer="a/b")
    assert spec.problems() == [
        "model.vision: ./none: no such folder",
        "model.language: /no/where: no such folder",
    ]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"vision": {"model_type": "resnet"}}, r"'resnet' is no tower known here; known: clip"),
        (
            {"vision": {**tiny_vision("clip"), "hidden_size": "wide"}},
            r"'hidden_size'.* expected int",
        ),
        ({"vision": tiny_vision("siglip2")}, r"takes a CLIP or SigLIP tower, not siglip2"),
        ({"language": {"model_type": "lamma"}}, r"transformers knows no 'lamma'"),
        ({"language": {"model_type": "t5"}}, r"no causal language model"),
        ({"vision": "./none"}, r"model\.vision: \./none cannot be loaded"),
        ({"tokenizer": "./none"}, r"model\.tokenizer: \./none holds no tokenizer"),
        ({"language": "./none"}, r"model\.language: \./none is no causal language model"),
        ({"image_side_px": 33}, r"33 is no multiple of the tower's patch, 8"),
        (
            {"architecture": "vila"},
            r"vila takes a SigLIP, SigLIP2 or InternViT tower, not clip",
        ),
        (
            {
                "architecture": "vila",
                "vision": {**tiny_vision("internvit"), "image_size": 24},
            },
            r"3 patches along a side make no squares of 2x2; give .* that is a multiple of 16",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    update: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        load(tiny_spec(tmp_path, "llava").model_copy(update=update))


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    spec = tiny_spec(tmp_path, "llava")
    with pytest.raises(BadInput, match=r"names no end-of-text token"):
        load(spec.model_copy(update={"tokenizer": str(tmp_path / "endless")}))


def test_a_folder_without_the_towers_weights_is_refused(language: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    composite("clip", tmp_path / "tower")
    path = tmp_path / "tower" / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if "mlp.fc1" not in k}
    save_file(weights, path, metadata={"format": "pt"})
    spec = ModelSpec(architecture="llava", vision=str(tmp_path / "tower"), language=str(language))
    with pytest.raises(BadInput, match=r"lacks 4 weights of its tower, such as .*fc1"):
        load(spec)


def test_a_checkpoint_of_another_kind_is_refused(language: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a LlamaForCausalLM; accepted: InternVLFor.*LlavaFor"):
        load(ModelSpec(checkpoint=str(language)))
    with pytest.raises(BadInput, match=r"\./none cannot be loaded"):
        load(ModelSpec(checkpoint="./none"))
    seeing = make_tiny_llava(tmp_path / "seeing")
    spec = tiny_spec(tmp_path, "llava").model_copy(update={"language": str(seeing)})
    with pytest.raises(BadInput, match=r"model\.language: "):
        load(spec)

"""A LLaVA small enough to be made in a second, with random weights: it cannot see, but every engine
can run it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

_WORDS = """
a the one two three red green blue yellow white black gray small large round square tall flat circle
box triangle ring line shape picture background corner edge middle top bottom left right of in on at
with and near above below beside between is are lies stands shows fills against bright dark plain
soft scene image view light shadow surface . ,
"""
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_CHAT_WORDS = ("USER", "ASSISTANT", ":")
_UNWRITTEN = ["<pad>", "<s>", "<unk>", "<image>", *_CHAT_WORDS]
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }} : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
_IMAGE_SIDE_PX = 32
_PATCH_SIDE_PX = 8
_WIDTH = 32


def make_tiny_llava(folder: Path, *, seed: int = 0) -> Path:
    """Writes a LLaVA checkpoint of about 50,000 random weights, with processor and chat template.

    Its captions are random words; at temperature 1 about one in sixty tokens ends the text.

    Args:
        folder: becomes a transformers checkpoint, about 300 KB; one that is there is kept.
        seed: of the weights.

    Returns:
        ``folder``.

    Raises:
        MissingExtra: torch or transformers is not installed.
    """
    from vila2data.optional import require

    torch = require("torch", extra="vlm")
    transformers = require("transformers", extra="vlm")
    if (folder / "processor_config.json").is_file():
        return folder
    tokenizer = _tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=_IMAGE_SIDE_PX,
            patch_size=_PATCH_SIDE_PX,
            projection_dim=_WIDTH,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(_IMAGE_SIDE_PX // _PATCH_SIDE_PX) ** 2,
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        torch.manual_seed(seed)
        model = transformers.LlavaForConditionalGeneration(config)
        # Wide output weights: the best token leads by far more than rounding differs from batch to
        # batch. Tokens that must not be written get none, and so fall behind.
        torch.nn.init.normal_(model.lm_head.weight, std=0.45)
        with torch.no_grad():
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(_UNWRITTEN)] = 0.0
    model.save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)
    return folder


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIAL, *_WORDS.split(), *_CHAT_WORDS]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def _processor(tokenizer: "PreTrainedTokenizerFast") -> "LlavaProcessor":
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = _IMAGE_SIDE_PX
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=_PATCH_SIDE_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT_TEMPLATE,
    )

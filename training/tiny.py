"""A LLaVA small enough to be made in a second, with random weights: it cannot see, but every engine
can run it.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .architectures.spec import ModelSpec

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
    "{% endfor %}{% if message['role'] == 'assistant' %}{{ eos_token }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
_PATCH_SIDE_PX = 8
_HEAD_WIDTH = 32  # vLLM's attention on a CPU wants no less


def make_tiny_llava(
    folder: Path, *, seed: int = 0, width: int = 32, layers: int = 2, image_side_px: int = 32
) -> Path:
    """Writes a LLaVA checkpoint of random weights, about 50,000, with processor and chat template.

    Its captions are random words; at temperature 1 about one in sixty tokens ends the text.

    Args:
        folder: becomes a transformers checkpoint, about 300 KB; one that is there is kept.
        seed: of the weights.
        width: of tower and language model, a multiple of 32.
        layers: of each.
        image_side_px: a multiple of 8.

    Returns:
        ``folder``.

    Raises:
        MissingExtra: torch or transformers is not installed.
    """
    from vila2data.optional import require

    from .architectures.assemble import assemble
    from .architectures.save import save_checkpoint

    torch = require("torch", extra="vlm")
    if (folder / "processor_config.json").is_file():
        return folder
    with TemporaryDirectory() as parts:
        tiny_tokenizer().save_pretrained(parts)
        model, processor = assemble(_spec(parts, seed, width, layers, image_side_px))
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # the caller's state stays as it was
        torch.manual_seed(seed)
        # Wide output weights: the best token leads by far more than rounding differs from batch to
        # batch. Tokens that must not be written get none, and so fall behind.
        torch.nn.init.normal_(model.lm_head.weight, std=0.45)
        model.lm_head.weight[processor.tokenizer.convert_tokens_to_ids(_UNWRITTEN)] = 0.0
    save_checkpoint(model, processor, folder)
    return folder


def _spec(tokenizer: str, seed: int, width: int, layers: int, image_side_px: int) -> "ModelSpec":
    from .architectures.spec import ModelSpec

    size = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, width // _HEAD_WIDTH),
    }
    images = {"image_size": image_side_px, "patch_size": _PATCH_SIDE_PX}
    heads = {"head_dim": _HEAD_WIDTH, "max_position_embeddings": 2048}
    return ModelSpec(
        architecture="llava",
        vision={"model_type": "clip_vision_model", **size, **images},
        language={"model_type": "llama", **size, **heads},
        tokenizer=tokenizer,
        chat_template=_CHAT_TEMPLATE,
        seed=seed,
    )


def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per word of a hundred words; what it does not know is ``<unk>``."""
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
    )

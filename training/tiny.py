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

    from .architectures.assemble import assemble
    from .architectures.save import save_checkpoint

    torch = require("torch", extra="vlm")
    if (folder / "processor_config.json").is_file():
        return folder
    with TemporaryDirectory() as parts:
        tiny_tokenizer().save_pretrained(parts)
        model, processor = assemble(_spec(parts, seed))
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # the caller's state stays as it was
        torch.manual_seed(seed)
        # Wide output weights: the best token leads by far more than rounding differs from batch to
        # batch. Tokens that must not be written get none, and so fall behind.
        torch.nn.init.normal_(model.lm_head.weight, std=0.45)
        model.lm_head.weight[processor.tokenizer.convert_tokens_to_ids(_UNWRITTEN)] = 0.0
    save_checkpoint(model, processor, folder)
    return folder


def _spec(tokenizer: str, seed: int) -> "ModelSpec":
    from .architectures.spec import ModelSpec

    size = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    images = {"image_size": _IMAGE_SIDE_PX, "patch_size": _PATCH_SIDE_PX}
    return ModelSpec(
        architecture="llava",
        vision={"model_type": "clip_vision_model", **size, **images},
        # vLLM's attention on a CPU wants heads of 32
        language={"model_type": "llama", **size, "head_dim": 32, "max_position_embeddings": 2048},
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

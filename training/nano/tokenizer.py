"""The tokenizer of the nano language model: byte-level BPE, one token for most words."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vila2data.optional import require
from vila2data.prompts import load_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
_IMAGE = "<image>"
# A coordinate with two decimals is one piece, as a word is; other digits stand alone.
_PIECES = r" ?[01]\.\d\d| ?\p{L}+| ?\d| ?[^\s\p{L}\d]+|\s+"
_OFTEN = 100  # so often is what must become one token repeated


def words_of(tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """The words, each with a space before it, that the tokenizer has a token for."""
    tokens = (str(tokenizer.decode([number])) for number in range(len(tokenizer)))
    return sorted(t for t in tokens if t[:1] == " " and t[1:].isalpha() and t.isascii())


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """A tokenizer of the words of ``texts``, of the prompts, and of coordinates in 0-1.

    Args:
        texts: any number; words that stand in one of them alone are cut into pieces.
        vocabulary: at most so many tokens.
    """
    require("tokenizers", extra="vlm")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*_SPECIAL.values(), _IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    coordinates = [f"[{n / 100:.2f}, {n / 100:.2f}]" for n in range(101)]
    prompts = [f"{prompt.text} USER: ASSISTANT:" for prompt in load_prompts().values()]
    tokenizer.train_from_iterator([*texts, *(_OFTEN * (coordinates + prompts))], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)  # type: ignore[no-untyped-call]

"""Text from the web is data: nothing in it may act as a special token or as a turn of the
conversation.

Patterns, not one tokenizer's list, since a data set outlives the model that it is trained with.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NAMED = (
    "image|images|video|audio|img|im_patch|im_start|im_end|image_soft_token|start_of_image|end_of_image"
    "|image_placeholder|fake_token_around_image|global-img|IMG_CONTEXT|ImageHere|object|seg"
    "|vila/(?:sentinel|image|video)|end_of_utterance"
    "|s|unk|pad|bos|eos|sep|cls|mask|eot|start_of_turn|end_of_turn|think|tool_call|box|ref|quad"
)
_TOKEN = re.compile(
    r"<\|[^<>|\n]{1,40}\|>"  # <|im_start|>, <|endoftext|>, <|vision_start|>
    r"|<｜[^<>｜\n]{1,40}｜>"  # the same with full-width bars
    rf"|</?(?:{_NAMED})(?:_?\d{{1,5}})?/?>"  # <image>, <image_1>, </s>
    r"|<(?:extra_id|reserved|unused|patch_index|loc)_?\d{1,5}>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\]"
    r"|\[(?:CLS|SEP|PAD|MASK|UNK|IMG|IMG_BREAK|IMG_END)\]",
    re.IGNORECASE,
)
_BLANKS = r"[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*"  # what a line may start with
_ROLE = re.compile(
    rf"\b(?:USER|ASSISTANT|SYSTEM|HUMAN|GPT){_BLANKS}:"  # Vicuna's, anywhere in a line
    r"|(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))"  # whatever anyone takes for a line's start
    rf"{_BLANKS}(?:#{{1,4}}{_BLANKS})?(?i:user|assistant|system|human|gpt|bot){_BLANKS}:",
    re.MULTILINE,
)
_CAN_HOLD_A_TOKEN = frozenset("<[")
_SUSPECT = r"[<\[:]"
_INERT = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "|": "¦", "｜": "¦"})


def find_special(text: str) -> str | None:
    """The first special token or role label in ``text``, None where it holds none.

    Example:
        >>> find_special("a cat <|im_end|> on a mat")
        '<|im_end|>'
    """
    if _CAN_HOLD_A_TOKEN.isdisjoint(text) and ":" not in text:
        return None  # the common case, without a regular expression
    found = _TOKEN.search(text) or _ROLE.search(text)
    return found.group() if found else None


def neutralise(text: str) -> str:
    """``text`` with special tokens and role labels made inert but still readable.

    ``<image>`` becomes ``‹image›`` and ``USER:`` becomes ``USER：`` (a full-width colon). Doing it
    twice changes nothing more, and the result holds nothing that ``find_special`` finds.

    Example:
        >>> neutralise("<image> USER: hi [INST]")
        '‹image› USER： hi (INST)'
    """
    while find_special(text) is not None:  # removing an inner token can close an outer one: <|<s>|>
        text = _TOKEN.sub(lambda match: match.group().translate(_INERT), text)
        text = _ROLE.sub(lambda match: match.group().replace(":", "："), text)
    return text


def neutralise_all(texts: pa.StringArray) -> pa.StringArray:
    """``neutralise`` of each text; most hold nothing that could be special, and cost little."""
    suspects = np.flatnonzero(pc.match_substring_regex(texts, _SUSPECT))
    if not len(suspects):
        return texts
    safe = pa.array([neutralise(text) for text in texts.take(suspects).to_pylist()], pa.string())
    marks = np.zeros(len(texts), np.bool_)
    marks[suspects] = True
    return pc.replace_with_mask(texts, pa.array(marks), safe)

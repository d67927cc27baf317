"""Makes what the data feed reads: tokenizers of several kinds, processors, chat templates, builds."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vila2data.build.card import card_of
from vila2data.build.manifest import MANIFEST_FILE, BuildFile, Manifest
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.files import file_sha256
from vila2data.schema import features_of

_PARTS = (
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
)


def _template(before: str, turn: str, asked: str) -> str:
    """A chat template of what stands before all turns, around one, and before an answer."""
    body = turn.replace("CONTENT", _PARTS).replace("ROLE", "{{ message['role'] }}")
    return (
        before
        + "{% for message in messages %}"
        + body
        + "{% endfor %}{% if add_generation_prompt %}"
        + asked
        + "{% endif %}"
    )


VICUNA = _template(
    "",
    "{{ message['role'].upper() }}: CONTENT{{ eos_token if message['role'] == 'assistant' else ' ' }}",
    "ASSISTANT:",
)
CHATML = _template("", "<|im_start|>ROLE\nCONTENT<|im_end|>\n", "<|im_start|>assistant\n")
LLAMA3 = _template(
    "{{ bos_token }}",
    "<|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
)
STYLES = {  # template, the tokenizer's start and end tokens, further special tokens
    "vicuna": (VICUNA, "<s>", "</s>", ()),
    "chatml": (CHATML, None, "<|im_end|>", ("<|im_start|>",)),
    "llama3": (
        LLAMA3,
        "<|begin|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
}
_TEXTS = (
    "a red box stands on a round table , the cat sits near it.",
    "USER: What is left of the box? ASSISTANT: nothing at all.",
    "naïve café, 日本語の文 😀 ok\n\nand a second line",
)


def byte_tokenizer(
    *,
    start: str | None = "<s>",
    end: str = "</s>",
    more: Sequence[str] = (),
    adds_start: bool = True,
    adds_end: bool = False,
    trims: bool = False,
    pads: bool = True,
) -> Any:
    """A byte-level BPE as those of GPT-2, Llama 3 and Qwen.

    Args:
        start: its start token.
        end: its end token.
        more: further special tokens.
        adds_start: whether it puts the start token before each text itself.
        adds_end: whether it puts the end token behind each text itself.
        trims: whether the offsets of its tokens leave out blanks.
        pads: whether it has a token to pad with.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = [t for t in ("<pad>" if pads else None, start, end, "<image>", *more) if t]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS * 4, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in special}
    around = [start if start and adds_start else "", "$A", end if adds_end else ""]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trims),
            processors.TemplateProcessing(
                single=" ".join(filter(None, around)), special_tokens=list(ids.items())
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>" if pads else None,
        bos_token=start,
        eos_token=end,
        extra_special_tokens={"image_token": "<image>"},
    )


def processor_of(tokenizer: Any, template: str | None = VICUNA) -> Any:
    """A LLaVA's processor: 16 tokens an image."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def styled(style: str, **settings: Any) -> Any:
    """A processor with a byte-level tokenizer and the chat template of a style."""
    template, start, end, more = STYLES[style]
    return processor_of(byte_tokenizer(start=start, end=end, more=more, **settings), template)


def image_bytes(number: int, size: tuple[int, int] = (48, 40), form: str = "PNG") -> bytes:
    """A picture of noise."""
    width, height = size
    noise = hashlib.shake_256(str(number).encode()).digest(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(buffer, form)
    return buffer.getvalue()


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    roles = ["user", "assistant"] * (len(turns) // 2 + 1)
    said = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return [{"role": "system", "content": system}, *said] if system is not None else said


def instruct(key: str, messages: Any, images: Sequence[bytes | None] = ()) -> dict[str, Any]:
    """A row of ``llava-instruct``."""
    held = [None if image is None else {"bytes": image, "path": None} for image in images]
    told = {"id": key, "source": "made", "task": "general", "license": "cc0-1.0"}
    return {**told, "images": held, "messages": messages}


def make_build(
    folder: Path,
    data_set: str,
    config: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    files: int = 1,
    split: str = "train",
) -> Path:
    """A build by hand: rows of one config in several files, with a card."""
    schema = features_of(data_set, config)[0].arrow_schema
    size = -(-len(rows) // files)
    written = []
    for number in range(files):
        path = folder / "data" / config / f"{split}-{number:05d}-of-{files:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        some = list(rows[number * size : (number + 1) * size])
        pq.write_table(pa.Table.from_pylist(some, schema=schema), path, row_group_size=4)
        name = path.relative_to(folder).as_posix()
        written.append(
            BuildFile(name, config, split, len(some), path.stat().st_size, file_sha256(path))
        )
    manifest = Manifest(
        data_set, "1.0.0", 1, "cc0-1.0", config, {}, [], {}, written, [], {"captions": []}
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    (folder / "README.md").write_text(card_of(manifest, "made"), "utf-8")
    return folder


def write_documents(file: Path, documents: Iterable[Mapping[str, Any] | bytes]) -> Path:
    """MMC4's JSONL; bytes stand as they are."""
    lines = [d if isinstance(d, bytes) else json.dumps(d).encode() for d in documents]
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def document(texts: Sequence[str], *images: tuple[str, int, float]) -> dict[str, Any]:
    """A document of MMC4: for each image its name, the sentence it belongs to, how well it fits."""
    told = [
        {"image_name": name, "matched_text_index": index, "matched_sim": fit, "raw_url": "u"}
        for name, index, fit in images
    ]
    return {"url": "u", "text_list": list(texts), "image_info": told}


def caption_row(key: str, text: str, image: bytes | None = None, **values: Any) -> dict[str, Any]:
    """A row of config ``original`` of ``coyo-recap``."""
    row = {"key": key, "original": text, "caption": text, "task": "general", "round": 0}
    if image is not None:
        with Image.open(io.BytesIO(image)) as picture:
            width, height = picture.size
        told = hashlib.sha256(image).hexdigest()
        row |= {"image_sha256": told, "width": width, "height": height}
    return row | values


def make_pair(root: Path, count: int, *, shards: int = 1, name: str = "a") -> tuple[Path, Path]:
    """A corpus and a build of its captions, `NAME's picture N .` each."""
    images = {f"{name}{n:04d}": image_bytes(n, (8 + n % 5, 9)) for n in range(count)}
    corpus = root / f"corpus-{name}"
    items = [SourceItem(key, lambda i=image: i, b"alt", {}) for key, image in images.items()]
    pack(items, corpus, samples_per_shard=-(-count // shards))
    rows = [caption_row(k, f"picture {k} .", i) for k, i in images.items()]
    return corpus, make_build(root / f"build-{name}", "coyo-recap", "original", rows)


def records_of(plan: Any) -> list[list[dict[str, Any]]]:
    """The samples of each sequence of a plan, read with pyarrow alone."""
    with pa.OSFile(str(plan.folder / "samples.arrow")) as file:
        records = pa.ipc.open_stream(file).read_all().to_pylist()
    starts = np.fromfile(plan.folder / "items.bin", np.int64).tolist()
    assert starts[-1] == len(records)
    return [records[a:b] for a, b in pairwise(starts)]


def keys_of(plan: Any) -> list[str]:
    """Keys of the samples in order."""
    return [record["key"] for item in records_of(plan) for record in item]

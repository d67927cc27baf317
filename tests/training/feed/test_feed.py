"""Samples with their images, and the batches made of them."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from feeding import (
    CHATML,
    byte_tokenizer,
    caption_row,
    image_bytes,
    instruct,
    keys_of,
    make_build,
    make_pair,
    processor_of,
    records_of,
    talk,
)
from strangers import encoded, jpeg, picture, tar_of
from tiny_models import tiny_spec

from vila2data.corpus.images import ImageLimits
from vila2data.training.architectures.assemble import assemble, parts_of
from vila2data.training.feed.feed import Collator, Feed, Item, Sample
from vila2data.training.feed.pictures import scaled
from vila2data.training.feed.plan import Plan

torch = pytest.importorskip("torch")

Planned = Callable[..., Plan]


def blend(folder: Path, count: int = 14) -> Path:
    """Samples without images, with one, and with two."""
    texts = ["the red box .", "left of a large round circle", "a", "near the tall ring ."]
    rows = [
        instruct(
            f"b{n:02d}",
            talk("<image>" * (n % 3), texts[n % 4], "what", texts[n // 4 % 4] + " and"),
            [image_bytes(n + m, (40 + 9 * n, 30 + 5 * m)) for m in range(n % 3)],
        )
        for n in range(count)
    ]
    return make_build(folder, "llava-instruct", "all", rows)


@cache
def assembled(name: str) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return assemble(tiny_spec(Path(mkdtemp(prefix="vila2data-test-")), *name.split("-")))


def loss_sums(model: Any, collate: Collator, item: Item) -> list[float]:
    """Sum of the losses of each sample of one sequence, by the labels and logits."""
    batch = scaled(collate([item]), collate.pictures.late_scale)
    batch.pop("feed_counts")
    labels = batch.pop("labels")
    with torch.inference_mode():
        logits = model(**batch, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="none"
    )
    positions = batch.get("position_ids", torch.arange(labels.shape[1])[None])
    starts = [*(positions[0] == 0).nonzero()[:, 0].tolist(), labels.shape[1]]
    assert len(starts) == len(item.samples) + 1
    assert (labels[0, starts[:-1]] == -100).all()
    return [losses[a : b - 1].sum().item() for a, b in pairwise(starts)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava-clip", "llava_next-clip", "vila-internvit", "vila-siglip"])
def test_packed_samples_have_the_losses_that_they_have_alone(
    tmp_path: Path, planned: Planned, name: str, attention: str
) -> None:
    model, processor = assembled(name)
    model.set_attn_implementation(attention)
    context = 250 if name.startswith("llava_next") else 160
    plan = planned(
        {"build": blend(tmp_path / "b")}, processor=processor, context_tokens=context, packing=True
    )
    feed = Feed(plan)
    packed = Collator(processor, context_tokens=context, packing=True)
    alone = Collator(processor, context_tokens=context)
    items = [feed[n] for n in range(len(feed))]
    assert max(len(item.samples) for item in items) > 2
    assert max(sum(len(s.pictures) > 0 for s in item.samples) for item in items) > 1
    for item in items:
        expected = [loss_sums(model, alone, Item([s]))[0] for s in item.samples]
        assert loss_sums(model, packed, item) == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert min(expected) > 1


def test_padded_batches_have_the_losses_of_their_samples(tmp_path: Path, planned: Planned) -> None:
    model, processor = assembled("llava-clip")
    feed = Feed(planned({"build": blend(tmp_path / "b")}, processor=processor, batch=5))
    collate = Collator(processor, context_tokens=4096)
    items = [feed[n] for n in range(len(feed))]
    assert [len(item.samples) for item in items] == [1] * 14 + [0]
    for begin in range(0, 15, 5):
        some = items[begin : begin + 5]
        batch = scaled(collate(some), collate.pictures.late_scale)
        assert batch.pop("feed_counts")[0] == sum(len(item.samples) for item in some)
        with torch.inference_mode():
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none"
        ).sum(dim=1)
        expected = [loss_sums(model, collate, i)[0] if i.samples else 0.0 for i in some]
        assert losses.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert torch.isfinite(logits).all()


def test_broken_images_are_skipped_counted_and_replaced_by_nothing(
    tmp_path: Path, planned: Planned, words: Any
) -> None:
    noise = image_bytes(1, (200, 200), "JPEG")
    images = {
        "cut": noise[: len(noise) // 2],
        "fine": jpeg(2),
        "noimage": b"<html>not found</html>",
        "toolarge": encoded(picture(3, size=(80, 80)), "PNG"),
        "void": b"",
    }
    tar_of(tmp_path / "c" / "00000.tar", [(f"{k}.jpg", v) for k, v in images.items()])
    rows = [
        caption_row(key, f"red {key} .", image_sha256=hashlib.sha256(data).hexdigest())
        for key, data in images.items()
    ]
    build = make_build(tmp_path / "b", "coyo-recap", "original", rows)
    plan = planned({"build": build, "corpus": tmp_path / "c"})
    feed = Feed(plan, ImageLimits(max_pixels=6000))
    keys = keys_of(plan)
    reasons = {key: feed[n].skipped for n, key in enumerate(keys)}
    assert reasons == {
        "cut": {"image_too_many_pixels": 1},
        "fine": {},
        "noimage": {"image_undecodable": 1},
        "toolarge": {"image_too_many_pixels": 1},
        "void": {"image_empty": 1},
    }
    assert Feed(plan)[keys.index("cut")].skipped == {"image_undecodable": 1}
    batch = Collator(words, context_tokens=99)([feed[n] for n in range(5)])
    assert batch["feed_counts"].tolist()[0::4] == [1, 4]
    fine = keys.index("fine")
    assert [bool((row != -100).any()) for row in batch["labels"]] == [n == fine for n in range(5)]
    assert len(batch["pixel_values"]) == 1


def test_a_broken_image_of_a_pack_takes_its_sample_alone(
    tmp_path: Path, planned: Planned, words: Any
) -> None:
    rows = [
        instruct("a", talk("", "a red .")),
        instruct("b", talk("<image><image>", "two ."), [image_bytes(1), b"broken"]),
        instruct("c", talk("<image>", "one ."), [image_bytes(2)]),
    ]
    plan = planned({"build": make_build(tmp_path / "b", "sft-blend", "all", rows)}, packing=True)
    item = Feed(plan)[0]
    assert {s.key for s in item.samples} == {"a", "c"}
    assert item.skipped == {"image_undecodable": 1}
    batch = Collator(words, context_tokens=99, packing=True)([item])
    assert batch["feed_counts"].tolist() == [2, 1, *batch["feed_counts"].tolist()[2:4], 1]


def test_an_empty_batch_can_be_trained_on(words: Any) -> None:
    for packing in (False, True):
        batch = Collator(words, context_tokens=9, packing=packing)([Item([]), Item([])])
        assert batch["feed_counts"].tolist() == [0] * 5
        assert (batch["labels"] == -100).all()
        assert "pixel_values" not in batch
        assert batch["input_ids"].shape == ((1, 1) if packing else (2, 1))


@pytest.mark.parametrize("packing", [False, True])
def test_a_picture_larger_than_its_row_says_does_not_burst_the_context(
    tmp_path: Path, planned: Planned, packing: bool
) -> None:
    _, processor = assembled("llava_next-clip")
    data = [image_bytes(1, (20, 20)), image_bytes(2, (96, 64))]
    tar_of(tmp_path / "c" / "00000.tar", [(f"{n}.png", image) for n, image in enumerate(data)])
    rows = [
        caption_row(str(n), "a red box .", image) | {"width": 20, "height": 20}
        for n, image in enumerate(data)
    ]
    build = make_build(tmp_path / "b", "coyo-recap", "original", rows)
    source = {"build": build, "corpus": tmp_path / "c"}
    plan = planned(source, processor=processor, batch=2, packing=packing)
    ((planned_tokens,),) = {tuple(r["image_tokens"]) for item in records_of(plan) for r in item}
    length = planned_tokens + 5
    feed = Feed(plan)
    items = [feed[n] for n in range(2)]

    def counts(context_tokens: int) -> list[int]:
        batch = Collator(processor, context_tokens=context_tokens, packing=packing)(items)
        assert len(batch["pixel_values"]) == batch["feed_counts"][1]
        return [int(n) for n in batch["feed_counts"][[0, 1, 4]]]

    assert counts(length) == [1, 1, 1]
    assert counts(4096) == [2, 2, 0]


def test_a_picture_that_the_processor_cannot_take_is_skipped(words: Any) -> None:
    from vila2data.training.feed.feed import Sample

    image = words.tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor([image, 9, 2]).numpy()
    samples = [
        Sample(str(n), ids, [1, 3], [picture(size=s)]) for n, s in enumerate([(9, 9), (1, 300)])
    ]
    batch = Collator(words, context_tokens=99)([Item([s]) for s in samples])
    assert batch["feed_counts"].tolist() == [1, 1, 18, 2, 1]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_batches_are_the_same_for_any_number_of_workers(
    tmp_path: Path, planned: Planned, words: Any, context: str
) -> None:
    corpus, build = make_pair(tmp_path, 10, shards=2)
    sources = [{"build": blend(tmp_path / "b")}, {"build": build, "corpus": corpus}]
    plan = planned(*sources, batch=4)

    def batches(workers: int, context: str | None) -> list[dict[str, Any]]:
        loader = torch.utils.data.DataLoader(
            Feed(plan),
            batch_size=4,
            collate_fn=Collator(words, context_tokens=4096),
            num_workers=workers,
            multiprocessing_context=context,
        )
        return list(loader)

    expected = batches(0, None)
    assert sum(int(batch["feed_counts"][0]) for batch in expected) == 24
    found = batches(2, context)
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_from_any_position_on_exactly_the_remaining_samples_come(
    tmp_path: Path, planned: Planned
) -> None:
    plan = planned(
        {"build": blend(tmp_path / "b"), "weight": 2.0}, batch=3, packing=True, context_tokens=64
    )
    items = records_of(plan)
    whole = [[s.key for s in Feed(plan)[n].samples] for n in range(plan.items)]
    assert whole == [[r["key"] for r in item] for item in items]
    assert sorted(key for item in whole for key in item) == sorted(
        2 * [f"b{n:02d}" for n in range(14)]
    )
    for begin in range(plan.items):
        feed = Feed(plan)  # as after a restart
        assert [[s.key for s in feed[n].samples] for n in range(begin, len(feed))] == whole[begin:]
    with pytest.raises(IndexError):
        Feed(plan)[plan.items]


def test_every_batch_is_of_one_modality_where_that_is_asked(
    tmp_path: Path, planned: Planned, words: Any
) -> None:
    for packing in (False, True):
        plan = planned(
            {"build": blend(tmp_path / f"b{packing}")},
            batch=4,
            single_modality=True,
            packing=packing,
            context_tokens=64,
        )
        feed = Feed(plan)
        kinds = []
        for begin in range(0, len(feed), 4):
            samples = [s for n in range(begin, begin + 4) for s in feed[n].samples]
            kinds.append({bool(s.pictures) for s in samples})
        assert all(len(kind) == 1 for kind in kinds)
        assert {kind for batch in kinds for kind in batch} == {True, False}


@pytest.mark.shared
@pytest.mark.parametrize("form", ["plain", "chat"])
def test_forty_photos_with_their_captions(
    tmp_path: Path, shared_data: Path, planned: Planned, form: str
) -> None:
    from making import do, write_recipe

    from vila2data.conversation import neutralise
    from vila2data.corpus.pack import pack
    from vila2data.corpus.sources import SourceItem

    folder = shared_data / "captions" / "coco"
    photos = sorted(folder.glob("images/*"))
    told = captions_of(folder / "captions.json")
    items = [
        SourceItem(p.stem, p.read_bytes, told[p.name].encode(), {"id": n})
        for n, p in enumerate(photos)
    ]
    pack(items, tmp_path / "corpus", samples_per_shard=9)
    build = do(write_recipe(tmp_path / "r.yaml"))
    tokenizer = byte_tokenizer(start=None, end="<|im_end|>", more=["<|im_start|>"])
    processor = processor_of(tokenizer, CHATML)
    expected = {p.stem: neutralise(told[p.name]).strip() for p in photos}
    for config in ("original", "conversations"):
        source = {"build": build, "corpus": tmp_path / "corpus", "config": config, "form": form}
        plan = planned(source, processor=processor, batch=8)
        assert (plan.samples, plan.images, plan.items) == (40, 40, 40)
        feed = Feed(plan)
        collate = Collator(processor, context_tokens=4096)
        seen = []
        for begin in range(0, 40, 8):
            some = [feed[n] for n in range(begin, begin + 8)]
            batch = collate(some)
            assert batch["pixel_values"].shape == (8, 3, 32, 32)
            for item, labels in zip(some, batch["labels"], strict=True):
                (sample,) = item.samples
                text = tokenizer.decode(labels[labels != -100])
                assert text.endswith("<|im_end|>")
                text = text.removesuffix("<|im_end|>")
                caption = expected[sample.key]
                assert text == caption if config == "original" else text.startswith(caption)
                seen.append(sample.key)
        assert sorted(seen) == sorted(expected)


def captions_of(file: Path) -> dict[str, str]:
    """The first caption of each photo, by file name."""
    content = json.loads(file.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return {names[a["image_id"]]: a["caption"] for a in reversed(content["annotations"])}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("name", ["llava-clip", "vila-siglip"])
def test_a_batch_of_texts_gets_a_blank_image_without_a_loss_where_that_is_asked(
    name: str, packing: bool
) -> None:
    model, processor = assembled(name)
    tokens = processor.tokenizer("the red box", add_special_tokens=False)["input_ids"]
    item = Item([Sample("t", np.asarray(tokens, np.int32), [1, 3], [])])
    options = {"context_tokens": 512, "packing": packing}
    plain = Collator(processor, **options)([item])
    blank = Collator(processor, always_images=True, **options)([item])
    assert "pixel_values" not in plain
    assert blank["feed_counts"].tolist() == plain["feed_counts"].tolist() == [1, 0, 3, 2, 0]
    scale = Collator(processor, **options).pictures.late_scale
    losses = []
    for batch in (plain, blank):
        batch.pop("feed_counts")
        losses.append(model(**scaled(batch, scale), use_cache=False).loss)
    torch.testing.assert_close(losses[1], losses[0])
    losses[1].backward()
    projector = parts_of(model)["projector"].values()
    assert all(p.grad is not None and not p.grad.any() for p in projector)

"""The plan: what it counts, when it refuses, that it is the same again."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feeding import (
    caption_row,
    document,
    image_bytes,
    instruct,
    make_build,
    make_pair,
    processor_of,
    talk,
    write_documents,
)

from vila2data.errors import BadInput, CorpusError, RunFailed, RunRefused
from vila2data.training.feed.feed import Collator, Feed
from vila2data.training.feed.plan import Plan, load_plan
from vila2data.training.feed.planning import make_plan
from vila2data.training.feed.spec import FeedSpec
from vila2data.training.tiny import tiny_tokenizer

Planned = Callable[..., Plan]


def bytes_of(plan: Plan) -> list[bytes]:
    return [(plan.folder / name).read_bytes() for name in ("samples.arrow", "items.bin")]


def blend(folder: Path, *more: dict[str, Any]) -> Path:
    """Conversations with none, one and two images."""
    rows = [
        instruct(
            f"b{n:02d}",
            talk(
                "<image>" * (n % 3) + "\nwhat is left", f"the red {'box ' * n}", "and", "the one ."
            ),
            [image_bytes(n + m) for m in range(n % 3)],
        )
        for n in range(20)
    ]
    return make_build(folder, "llava-instruct", "all", [*rows, *more], files=2)


def mixture(root: Path) -> list[dict[str, Any]]:
    """A source of each kind."""
    corpus, build = make_pair(root, 15, shards=3)
    told = [document(["a red box", "left of ."], (f"a{n:04d}.png", 1, 0.4)) for n in range(8)]
    file = write_documents(root / "docs.jsonl", told)
    return [
        {"build": build, "corpus": corpus, "weight": 1.5},
        {"build": blend(root / "blend"), "form": "chat"},
        {"documents": file, "corpus": corpus, "fraction": 0.7},
    ]


CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }} : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{{ eos_token if message['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


@pytest.fixture(scope="session")
def chatty() -> Any:
    """A processor of words whose template can be trained on."""
    pytest.importorskip("torch")
    return processor_of(tiny_tokenizer(), CHAT)


@pytest.mark.parametrize("packing", [False, True])
def test_counts_are_those_of_the_batches(
    tmp_path: Path, planned: Planned, chatty: Any, packing: bool
) -> None:
    options = {"context_tokens": 128, "packing": packing, "processor": chatty, "batch": 4}
    plan = planned(*mixture(tmp_path), **options, epochs=2)
    feed = Feed(plan)
    collate = Collator(chatty, context_tokens=128, packing=packing)
    totals = [0] * 5
    for begin in range(0, len(feed), 4):
        batch = collate([feed[n] for n in range(begin, begin + 4)])
        totals = [a + b for a, b in zip(totals, batch["feed_counts"].tolist(), strict=True)]
        tokens = batch.get("attention_mask", batch["input_ids"] * 0 + 1).sum().item()
        counts = dict(
            zip(["samples", "images", "tokens"], batch["feed_counts"].tolist(), strict=False)
        )
        fillings = (
            0
            if packing
            else sum(not item.samples for item in (feed[n] for n in range(begin, begin + 4)))
        )
        assert counts["tokens"] == tokens - fillings
        assert counts["images"] == len(batch.get("pixel_values", []))
        assert batch["feed_counts"][3] == (batch["labels"] != -100).sum()
        image = chatty.tokenizer.convert_tokens_to_ids("<image>")
        assert (batch["input_ids"] == image).sum() == 16 * counts["images"]
    assert totals == [plan.samples, plan.images, plan.tokens, plan.trained_tokens, 0]
    assert plan.items % 4 == 0
    assert plan.images > 40


def test_the_funnel_tells_where_every_row_went(tmp_path: Path, planned: Planned) -> None:
    lost = instruct("lost", talk("<image>", "a red"), [None])
    rows = [
        lost,
        instruct("long", talk("", "red " * 200)),
        instruct("empty", talk("", " ")),
        instruct("odd", talk("", "a", "b")),
        instruct("many", talk("<image>", "a"), [image_bytes(1)] * 2),
    ]
    plan = planned(
        {"build": blend(tmp_path / "b", *rows)},
        context_tokens=100,
        too_long="skip",
        missing_image="skip",
    )
    (step,) = plan.funnel
    assert (step.read, step.written, step.not_sampled) == (25, 20, 0)
    assert plan.samples == 20
    assert step.rejected == {
        "image_markers": 1,
        "image_missing": 1,
        "text_missing": 1,
        "too_long": 1,
        "turns": 1,
    }


def test_too_long_is_refused_with_count_first_key_and_remedy(
    tmp_path: Path, planned: Planned
) -> None:
    rows = [instruct(f"r{n}", talk("", "red " * (10 * n))) for n in range(1, 8)]
    source = {"build": make_build(tmp_path / "b", "sft-blend", "all", rows)}
    told = r"3 rows, 'r5' the first, are longer than feed.context_tokens = 50: raise it, or set feed.too_long: skip$"
    with pytest.raises(BadInput, match=told):
        planned(source, context_tokens=50)
    assert not list(tmp_path.glob("*plan*"))
    assert planned(source, context_tokens=50, too_long="skip").samples == 4
    assert planned(source, context_tokens=71).samples == 7  # 70 words and the end


def test_missing_images_are_refused_with_count_first_key_and_remedy(
    tmp_path: Path, planned: Planned
) -> None:
    corpus, _ = make_pair(tmp_path, 3)
    rows = [caption_row(f"a{n:04d}", f"picture {n} .", image_bytes(n)) for n in range(6)]
    source = {"build": make_build(tmp_path / "b", "coyo-recap", "original", rows), "corpus": corpus}
    told = r"3 rows, 'a0003' the first, are without their image in .*corpus-a: is it the corpus of this build\? Or set feed.missing_image: skip$"
    with pytest.raises(BadInput, match=told):
        planned(source)
    assert planned(source, missing_image="skip").funnel[0].rejected == {"image_missing": 3}


def test_nothing_left_is_refused(tmp_path: Path, planned: Planned) -> None:
    build = make_build(tmp_path / "b", "sft-blend", "all", [instruct("a", talk("", " "))])
    with pytest.raises(BadInput, match=r"^feed: no row is left to train on \(.*1 text_missing"):
        planned({"build": build})


def test_every_source_is_opened_before_the_first_is_read(tmp_path: Path, planned: Planned) -> None:
    rows = [instruct("r", talk("", "red " * 200))]
    long = make_build(tmp_path / "long", "sft-blend", "all", rows)
    with pytest.raises(BadInput, match="has no config 'nine'"):
        planned({"build": long}, {"build": long, "config": "nine"}, context_tokens=50)


def test_the_template_is_checked_where_a_source_is_a_chat(tmp_path: Path, planned: Planned) -> None:
    build = blend(tmp_path / "b")
    without = processor_of(tiny_tokenizer(), None)
    assert planned({"build": build}, processor=without).samples == 20
    with pytest.raises(BadInput, match="has no chat template"):
        planned({"build": build, "form": "chat"}, processor=without)


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(
    tmp_path: Path, planned: Planned, chatty: Any
) -> None:
    settings = {"processor": chatty, "context_tokens": 128, "packing": True, "seed": 3, "batch": 2}
    sources = mixture(tmp_path / "here")
    plans = [planned(*sources, **settings) for _ in range(2)]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [
        {k: tmp_path / "there" / v.name if isinstance(v, Path) else v for k, v in source.items()}
        for source in sources
    ]
    plans.append(planned(*moved, **settings))
    assert bytes_of(plans[0]) == bytes_of(plans[1]) == bytes_of(plans[2])
    assert len({plan.fingerprint for plan in plans}) == 1
    assert [plan.sources for plan in plans[1:]] == [plans[0].sources] * 2


def test_the_fingerprint_changes_with_whatever_shapes_training(
    tmp_path: Path, planned: Planned
) -> None:
    def plan(text: str = "the end .", weight: float = 1.0, image: int = 7, **settings: Any) -> str:
        root = tmp_path / hashlib.sha256(f"{text}{image}".encode()).hexdigest()
        if not root.exists():
            root.mkdir()
            data = image_bytes(image)
            make_pair(root, 9)
            pack_one(root / "other", "x", data)
            rows = [caption_row("x", text, data)]
            make_build(root / "b", "coyo-recap", "original", rows)
        sources = [
            {"build": root / "build-a", "corpus": root / "corpus-a", "weight": weight},
            {"build": root / "b", "corpus": root / "other"},
        ]
        return planned(*sources, **settings).fingerprint

    changed = [
        plan("the end ,"),
        plan(image=8),
        plan(weight=2.0),
        plan(seed=1),
        plan(epochs=2),
        plan(batch=4),
        plan(packing=True),
    ]
    assert plan() == plan()
    assert len({plan(), *changed}) == len(changed) + 1


def pack_one(folder: Path, key: str, image: bytes) -> None:
    from vila2data.corpus.pack import pack
    from vila2data.corpus.sources import SourceItem

    pack([SourceItem(key, lambda: image, b"", {})], folder)


def test_the_corpus_of_another_build_trains_nothing(
    tmp_path: Path, planned: Planned, words: Any
) -> None:
    corpus, _ = make_pair(tmp_path, 4)
    rows = [caption_row(f"a{n:04d}", f"picture {n} .", image_bytes(n + 50)) for n in range(4)]
    build = make_build(tmp_path / "b", "coyo-recap", "original", rows)
    plan = planned({"build": build, "corpus": corpus}, batch=2)
    feed = Feed(plan)
    assert [feed[n].skipped for n in range(4)] == [{"image_changed": 1}] * 4
    batch = Collator(words, context_tokens=99)([feed[0], feed[1]])
    assert batch["feed_counts"].tolist() == [0, 0, 0, 0, 2]
    assert (batch["labels"] == -100).all()


def test_rows_that_say_of_an_image_what_cannot_be_are_counted(
    tmp_path: Path, planned: Planned
) -> None:
    corpus, _ = make_pair(tmp_path, 4)
    sizes = [(8, 9), (100_000, 100_000), (3, 2000), (1, 40_000)]
    rows = [
        caption_row(f"a{n:04d}", "a red .", width=w, height=h) for n, (w, h) in enumerate(sizes)
    ]
    build = make_build(tmp_path / "b", "coyo-recap", "original", rows)
    (step,) = planned({"build": build, "corpus": corpus}).funnel
    assert step.rejected == {"image_too_narrow": 2, "image_too_many_pixels": 1}


@pytest.mark.slow
def test_the_plan_is_the_same_for_any_number_of_workers(
    tmp_path: Path, planned: Planned, chatty: Any
) -> None:
    sources = [*mixture(tmp_path), {"build": blend(tmp_path / "more"), "cap": 7}]
    read: list[int] = []
    alone = planned(*sources, processor=chatty, batch=2)
    folder = tmp_path / "by-workers"
    spec = FeedSpec(sources=[{"form": "plain", **source} for source in sources])
    together = make_plan(spec, chatty, folder, seed=0, batch=2, workers=2, on_rows=read.append)
    assert bytes_of(together) == bytes_of(alone)
    assert together.funnel == alone.funnel
    assert sum(read) == sum(step.read for step in alone.funnel)


def test_a_corpus_that_changed_since_is_refused(tmp_path: Path, planned: Planned) -> None:
    corpus, build = make_pair(tmp_path, 6)
    plan = planned({"build": build, "corpus": corpus})
    shard = next(corpus.glob("*.tar"))
    shard.write_bytes(shard.read_bytes() + b"\0" * 512)
    with pytest.raises(RunRefused, match=r"is not the corpus that .* was made of any more"):
        load_plan(plan.folder)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"holds no .tar shards"):
        load_plan(plan.folder)


def test_a_plan_is_loaded_as_it_was_made(tmp_path: Path, planned: Planned) -> None:
    plan = planned({"build": blend(tmp_path / "b")})
    assert load_plan(plan.folder) == plan
    with pytest.raises(RunRefused, match="holds no plan of a training run"):
        load_plan(tmp_path)
    file = plan.folder / "plan.json"
    file.write_text(file.read_text().replace('"plan_version": 1', '"plan_version": 0'))
    with pytest.raises(RunRefused, match="was made by another version"):
        load_plan(plan.folder)


def test_the_folder_holds_the_plan_alone(tmp_path: Path, planned: Planned) -> None:
    plan = planned({"build": blend(tmp_path / "b"), "cap": 5})
    names = {path.name for path in plan.folder.iterdir()}
    assert names == {"plan.json", "samples.arrow", "items.bin"}
    assert not list(tmp_path.glob(".plan*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import AutoProcessor
from vila2data.training.feed import planning
from vila2data.training.feed.spec import FeedSpec

model, build, folder = map(Path, sys.argv[1:])
spec = FeedSpec(sources=[{"build": build, "form": "plain"}])
processor = AutoProcessor.from_pretrained(model)

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

for at in ("rows", "_write_samples", "_write_summary"):
    child = os.fork()
    if child == 0:
        if at != "rows":
            setattr(planning, at, kill)
        on_rows = kill if at == "rows" else lambda count: None
        planning.make_plan(spec, processor, folder, seed=0, batch=2, on_rows=on_rows)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, folder.exists(), (folder.parent / f".{folder.name}.partial").is_dir())
"""


@pytest.mark.slow
def test_a_killed_planning_leaves_no_plan_and_can_be_done_again(
    tmp_path: Path, words: Any, planned: Planned
) -> None:
    build, folder = blend(tmp_path / "b"), tmp_path / "the-plan"
    words.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-c", KILLED, tmp_path / "model", build, folder]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == ["-9 False True"] * 3, ended.stderr
    spec = FeedSpec(sources=[{"build": build, "form": "plain"}])
    plan = make_plan(spec, words, folder, seed=0, batch=2)
    assert plan.fingerprint == planned({"build": build}, batch=2).fingerprint
    assert not (tmp_path / ".the-plan.partial").exists()


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from vila2data.training.feed import planning

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(planning, "sync", full)
    with pytest.raises(RunFailed, match=r"^no space left while writing .*plan0; .*free some space"):
        planned({"build": blend(tmp_path / "b")})
    assert not list(tmp_path.glob("*plan*"))

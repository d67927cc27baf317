"""The papers' prompts, word for word."""

import re
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from vila2data.errors import BadInput
from vila2data.prompts import load_prompts, load_templates, prompt, render_prompt, template

PAPERS = {"VILA²": "000_*.txt", "LLaVA-1.5": "003_*.txt"}


def flat(text: str) -> str:
    """Without the marks of typesetting."""
    plain = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    return re.sub(r"[*$\\`|]|<[a-z/]+>", " ", plain)


@pytest.mark.shared
@pytest.mark.parametrize("id", [p.id for p in load_prompts().values() if p.use != "question"])
def test_prompt_stands_in_its_paper_word_for_word(shared_data: Path, id: str) -> None:
    found = load_prompts()[id]
    paper = next(name for name in PAPERS if found.source.startswith(name))
    (file,) = (shared_data.parent / "papers").glob(PAPERS[paper])
    text = " ".join(flat(file.read_text(encoding="utf-8")).split())
    assert " ".join(flat(found.text).split()) in text


def test_every_prompt_of_the_papers_is_there() -> None:
    prompts = load_prompts().values()
    assert Counter((p.use, p.task) for p in prompts if p.use == "caption") == {
        ("caption", "general"): 4,
        ("caption", "spatial"): 2,
        ("caption", "grounding"): 1,
        ("caption", "ocr"): 1,
    }
    assert Counter(p.task for p in prompts if p.use == "question") == {
        "spatial": 3,
        "grounding": 3,
        "ocr": 3,
    }
    assert sum(p.use == "format" for p in prompts) == 6
    assert sorted(p.id for p in prompts if p.id.startswith("long-")) == [
        "long-v1",
        "long-v2",
        "long-v3",
    ]


def test_ids_and_texts_are_unique_and_every_prompt_tells_its_source() -> None:
    prompts = load_prompts()
    assert all(name == p.id for name, p in prompts.items())
    for use in ("caption", "question", "format"):
        texts = [p.text for p in prompts.values() if p.use == use]
        assert len(set(texts)) == len(texts)
    assert all(p.source and p.text == p.text.strip() for p in prompts.values())


def test_slips_of_the_public_code_are_not_copied() -> None:
    texts = " ".join(p.text for p in load_prompts().values())
    assert "detialed" not in texts
    assert "image.Identify" not in texts
    assert all(p.text.count("?") + p.text.count(".") >= 1 for p in load_prompts().values())


def test_image_marker_is_left_to_the_chat_template() -> None:
    assert not any("<image>" in p.text for p in load_prompts().values())


def test_hash_is_that_of_the_text_alone() -> None:
    found = prompt("long-v1")
    assert found.text == "Describe the image in details."
    assert found.sha256 == sha256(b"Describe the image in details.").hexdigest()
    assert template("recaption_only").sha256 == sha256(b"{caption}").hexdigest()


def test_unknown_id_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BadInput, match=r"there is no prompt 'long-v4'; known: .*long-v1, long-v2"):
        prompt("long-v4")
    with pytest.raises(BadInput, match="no template 'both'; known: concatenated, recaption_only"):
        template("both")


def test_shipped_prompts_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        load_prompts()["mine"] = prompt("simple")  # type: ignore[index]


@pytest.mark.parametrize(
    ("id", "original", "caption", "text"),
    [
        ("recaption_only", "old", "new", "new"),
        ("concatenated", "old", "new", "old\nnew"),
        ("concatenated", " old\n", "\nnew ", "old\nnew"),
        ("concatenated", "", "new", "new"),
        ("concatenated", "old", "", "old"),
        ("concatenated", "{caption}", "new", "{caption}\nnew"),
        ("concatenated", "old", "{original}", "old\n{original}"),
        ("recaption_only", "old", "", ""),
    ],
)
def test_template_joins_the_two_texts_and_leaves_no_empty_line(
    id: str, original: str, caption: str, text: str
) -> None:
    assert load_templates()[id].render(original=original, caption=caption) == text


def test_only_the_original_is_a_field_of_a_prompt() -> None:
    text = "Improve: {original} {caption} {0} {}"
    assert (
        render_prompt(text, original="{original} %s") == "Improve: {original} %s {caption} {0} {}"
    )

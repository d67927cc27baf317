"""What docs/blends.md says, once more: row by row in plain Python, slow, written to be read.

With the package it shares the layouts, the catalogue, how text is made safe, and the keyed draws. Of
overlap nothing is told: a recipe that compares nothing is meant.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.recipe import BlendRecipe
from vila2data.blend.source import Rules
from vila2data.conversation import neutralise
from vila2data.corpus.images import Problem
from vila2data.keyed import keyed_choice, keyed_hash, keyed_uniform
from vila2data.prompts import prompt

MARKER = "<image>"
FIRST = "the first of its conversation"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Record = Mapping[str, Any]
Turns = list[tuple[str, str]]


@dataclass
class Built:
    """What becomes of all records.

    Attributes:
        rows: of the config; ``images`` are bytes, or names where the recipe wants paths.
        rejected: conversations that were not used, by source and reason.
        records: by source, how many were read, written, and rejected by reason.
        questions: by source, exchanges under ``written`` and problems by reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    records: dict[str, Counter[str]] = field(default_factory=dict)
    questions: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass
class Conversation:
    """Exchanges about the same images, and the name that they have."""

    name: str
    images: tuple[str | bytes, ...]
    exchanges: list[Exchange]
    origin: Mapping[str, Any]


def build(recipe: BlendRecipe, records: Mapping[str, Sequence[Record]]) -> Built:
    """The rows of a blend.

    Args:
        recipe: of it.
        records: of each source, in order, as its files have them.
    """
    built = Built()
    for name in recipe.sources:
        add_source(built, recipe, name, records[name])
    return built


def add_source(built: Built, recipe: BlendRecipe, name: str, records: Sequence[Record]) -> None:
    """The rows of one source."""
    source, entry = recipe.source(name), recipe.sources[name]
    annotations = read(built, recipe, name, records)
    rules, is_worded = source.rules, LAYOUTS[source.layout or ""].worded
    folder = entry.images or recipe.folder(name) or Path()
    sampled: list[tuple[str, list[dict[str, Any]]]] = []
    for each in conversations(annotations, rules):
        mark_first(each)
        reason = first_fault(each, folder)
        if reason is not None:
            built.rejected[name, reason] += 1
            continue
        turned = worded(each, recipe, name, is_worded, folder)
        rows = []
        wanted = parts(turned, rules)
        for suffix, turns in wanted:
            texts = said(turns, each, rules, is_worded)
            texts = cut(texts, rules)
            if texts:
                rows.append(row_of(recipe, name, each, suffix, texts, folder))
        if len(rows) < len(wanted):
            built.rejected[name, "too_long"] += 1
            continue
        copies = math.floor(entry.weight)
        draw = keyed_uniform(recipe.seed, name, each.name, "weight")
        copies += draw < entry.weight - copies
        sampled.append((each.name, [copy_of(row, k) for k in range(copies) for row in rows]))
    built.rows += named_apart(capped(sampled, recipe, name))


# --- records -------------------------------------------------------------------------------------


def read(
    built: Built, recipe: BlendRecipe, name: str, records: Sequence[Record]
) -> list[Annotation]:
    """What the layout makes of all records, and the counts of them."""
    source = recipe.source(name)
    layout = LAYOUTS[source.layout or ""]
    columns = {source.columns.get(c, c): c for c in (*layout.needs, *layout.may_have)}
    counts: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    found = []
    for record in records:
        told = {columns[key]: value for key, value in record.items() if key in columns}
        if layout.worded:  # `origin` gives back what else a record has
            told = {columns.get(key, key): value for key, value in record.items()}
        given = list(layout.read(told))
        annotations = [each for each in given if isinstance(each, Annotation)]
        problems = [each for each in given if isinstance(each, Problem)]
        counts["read"] += 1
        counts["written" if annotations else problems[0].reason] += 1
        asked["written"] += sum(len(each.exchanges) for each in annotations)
        asked.update(each.reason for each in problems)
        found += annotations
    built.records[name], built.questions[name] = counts, asked
    return found


# --- conversations -------------------------------------------------------------------------------


def conversations(annotations: Sequence[Annotation], rules: Rules) -> list[Conversation]:
    """One for each annotation, or for each group of them."""
    if not rules.merge:
        return [Conversation(a.id, a.images, list(a.exchanges), a.origin) for a in annotations]
    groups: dict[str, Conversation] = {}
    alone: list[Conversation] = []
    for each in annotations:
        group = each.group or group_of(each.images)
        if not group:  # about no image
            alone.append(Conversation(each.id, (), list(each.exchanges), each.origin))
            groups[f"\0{len(alone)}"] = alone[-1]
        elif group in groups:
            groups[group].exchanges += each.exchanges
        else:
            groups[group] = Conversation(group, each.images, list(each.exchanges), each.origin)
    for conversation in groups.values():
        conversation.exchanges = different(conversation.exchanges)
    return list(groups.values())


def mark_first(conversation: Conversation) -> None:
    """Tells the first exchange apart, whose question may hold markers; it need not be drawn."""
    for number, each in enumerate(conversation.exchanges):
        conversation.exchanges[number] = replace(each, cleaned=FIRST if number == 0 else None)


def group_of(images: Sequence[str | bytes]) -> str:
    """The sha256 of each image's bytes."""
    return " ".join(sha256(image).hexdigest() for image in images if isinstance(image, bytes))


def different(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The first of those that are the same."""
    found: dict[object, Exchange] = {}
    for each in exchanges:
        found.setdefault((each.question, each.answer, each.choices, each.box), each)
    return list(found.values())


def first_fault(conversation: Conversation, folder: Path) -> str | None:
    """Why an image of the conversation cannot be used."""
    for image in conversation.images:
        if isinstance(image, str) and not (folder / image).is_file():
            return "image_missing"
        content = content_of(image, folder)
        if not content:
            return "image_empty"
        try:
            with Image.open(BytesIO(content)) as opened:
                opened.load()
        except OSError:
            return "image_undecodable"
    return None


def content_of(image: str | bytes, folder: Path) -> bytes:
    """The bytes of an image."""
    return image if isinstance(image, bytes) else (folder / image).read_bytes()


# --- what is said --------------------------------------------------------------------------------


def worded(
    conversation: Conversation, recipe: BlendRecipe, source: str, is_worded: bool, folder: Path
) -> list[Exchange]:
    """The exchanges that are drawn, those about boxes as question and answer."""
    rules, seed, name = recipe.source(source).rules, recipe.seed, conversation.name
    numbered = list(enumerate(conversation.exchanges))
    if rules.max_exchanges is not None:
        numbered.sort(key=lambda pair: keyed_hash(seed, source, name, "exchange", pair[0]))
        numbered = sorted(numbered[: rules.max_exchanges], key=lambda pair: pair[0])
    found = []
    for number, each in numbered:
        if each.box is not None and not is_worded:
            form = keyed_choice({"describe": 1, "locate": 1}, seed, source, name, "region", number)
            each = about_region(each, form, rules, conversation, folder)
        found.append(each)
    return found


def about_region(
    exchange: Exchange, form: str, rules: Rules, conversation: Conversation, folder: Path
) -> Exchange:
    """The question and answer about a box."""
    box = list(exchange.box or ())
    if rules.boxes_in == "square":
        with Image.open(BytesIO(content_of(conversation.images[0], folder))) as opened:
            width, height = opened.size
        side = max(width, height)
        sizes = (width, height, width, height)
        box = [(v * size + (side - size) / 2) / side for v, size in zip(box, sizes, strict=True)]
    written = "[" + ", ".join(str(round(v, 2)) for v in box) + "]"
    text = exchange.answer.rstrip(".") + "."
    if form == "describe":
        asked = f"Please provide a short description for this region: {written}."
        return replace(exchange, question=asked, answer=text[0].upper() + text[1:], box=None)
    asked = "Please provide the bounding box coordinate of the region this sentence describes: "
    return replace(exchange, question=asked + text, answer=written, box=None)


def parts(exchanges: list[Exchange], rules: Rules) -> list[tuple[str, list[Exchange]]]:
    """The rows of a conversation, each with what its id ends with."""
    size = rules.segment or len(exchanges)
    cuts = [exchanges[start : start + size] for start in range(0, len(exchanges), size)]
    most = max(len(each.choices) for each in exchanges)
    found = []
    for number, part in enumerate(cuts):
        suffix = f"/s{number}" if len(cuts) > 1 else ""
        if rules.permute_choices and most:
            found += [(f"{suffix}/r{j}", [turned(each, j) for each in part]) for j in range(most)]
        else:
            found.append((suffix, part))
    return found


def turned(exchange: Exchange, number: int) -> Exchange:
    """The choices rotated to the left."""
    choices = list(exchange.choices)
    for _ in range(number % len(choices) if choices else 0):
        choices.append(choices.pop(0))
    return replace(exchange, choices=tuple(choices))


def said(
    exchanges: Sequence[Exchange], conversation: Conversation, rules: Rules, is_worded: bool
) -> Turns:
    """Questions and answers as they stand in the messages."""
    form = None if rules.form is None or is_worded else prompt(rules.form).text
    found = []
    for number, each in enumerate(exchanges):
        lines = [each.question] if each.question else []
        lines += [
            f"{letter}. {choice.replace(chr(10), ' ')}"
            for letter, choice in zip(LETTERS, each.choices, strict=False)
        ]
        if form and (number == 0 or rules.form_in == "every" or not each.question):
            lines.append(form)
        question = "\n".join(lines)
        stand = question.count(MARKER) if is_worded and each.cleaned == FIRST else 0
        if number == 0 and stand and stand == len(conversation.images):
            question = MARKER.join(neutralise(text) for text in question.split(MARKER))
        elif number == 0:
            safe = [neutralise(question)] if question else []
            question = "\n".join([MARKER] * len(conversation.images) + safe)
        else:
            question = neutralise(question)
        letter = LETTERS[each.choices.index(each.answer)] if each.choices else None
        found.append((question, letter or neutralise(each.answer)))
    return found


def cut(turns: Turns, rules: Rules) -> Turns:
    """The first exchanges that have no more tokens than may be."""
    found: Turns = []
    tokens = 0
    for question, answer in turns:
        for text in (question, answer):
            tokens += math.ceil(len(text.encode()) / 4) + 4
        if rules.max_tokens is not None and tokens > rules.max_tokens:
            break
        found.append((question, answer))
    return found


# --- rows ----------------------------------------------------------------------------------------


def row_of(
    recipe: BlendRecipe,
    name: str,
    conversation: Conversation,
    suffix: str,
    turns: Turns,
    folder: Path,
) -> dict[str, Any]:
    """A row before it is counted and named apart."""
    source = recipe.source(name)
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    are_paths = recipe.images == "paths"
    images = [i if are_paths else content_of(i, folder) for i in conversation.images]
    return {
        "id": f"{name}/{conversation.name}{suffix}",
        "source": name,
        "task": source.task,
        "license": source.license,
        "images": images,
        "messages": messages,
        "origin": dict(conversation.origin) or None,
    }


def copy_of(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row itself, or a copy of it."""
    return {**row, "id": f"{row['id']}/c{number}" if number else row["id"]}


def capped(
    sampled: Sequence[tuple[str, list[dict[str, Any]]]], recipe: BlendRecipe, name: str
) -> list[dict[str, Any]]:
    """The rows of the first conversations by hash that are within the cap, in their order."""
    cap = recipe.sources[name].cap
    places = list(range(len(sampled)))
    if cap is not None and sum(len(rows) for _, rows in sampled) > cap:
        places.sort(
            key=lambda p: (keyed_hash(recipe.seed, name, sampled[p][0], "cap"), sampled[p][0])
        )
        kept, count = [], 0
        for place in places:
            count += len(sampled[place][1])
            if count > cap:
                break
            kept.append(place)
        places = sorted(kept)
    return [row for place in places for row in sampled[place][1]]


def named_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a source, each id different from those before it."""
    before: Counter[str] = Counter()
    found = []
    for row in rows:
        times = before[row["id"]]
        before[row["id"]] += 1
        found.append({**row, "id": f"{row['id']}/d{times}" if times else row["id"]})
    return found

"""The page in a browser: it shows what it holds, asks nobody for anything, and fits a phone."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from pages import (
    Page,
    asked,
    caption,
    grounded,
    image_bytes,
    make_build,
    phrase,
    scene,
    solid,
    space_row,
)
from PIL import Image

from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.report import write_report

_BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr", "--force-device-scale-factor=1"),
)
_POLICY = r'<meta http-equiv="Content-Security-Policy"[^>]*>'
_NOWHERE = "http://127.0.0.1:9/x.png"
_RED, _BLUE_BOX = (200, 30, 30), (47, 143, 255)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _BROWSER, reason="no chromium: apt-get install chromium"),
]

MEASURE = """<script>document.body.dataset.found = JSON.stringify({
  widths: [...document.images].map(i => i.naturalWidth),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  outside: [...document.querySelectorAll('.box, .panel, .text, .picture, .turn')].filter(
    e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.className),
})</script>"""


@pytest.fixture
def browse(tmp_path):
    """Opens a file in a browser of its own; gives what it wrote on stdout and stderr."""

    def run(file, *flags, width=1280, height=1500):
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        command = [
            _BROWSER,
            *_FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
        ]
        done = subprocess.run(
            [*command, *flags, file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, done.stderr

    return run


def hard_build(folder):
    """Captions that break layouts: long words, many scripts, right to left, hostile."""
    texts = {
        "original": "free   download " + "wallpaper" * 60,
        "round1": "一只红色的汽车停在一棵高大的树旁边。" * 40,
        "round2": "سيارة حمراء بجانب شجرة طويلة، left to right, ثم العكس. " * 30,
        "ocr": "<img src=x onerror=alert(1)><script>document.title='broken'</script>\u202eabc" * 4,
    }
    rounds = {"original": 0, "round1": 1, "round2": 2, "ocr": 1}
    tables = {}
    for config, text in texts.items():
        task = "ocr" if config == "ocr" else "general"
        row = caption("k" * 300, text, round=rounds[config], task=task, original=texts["original"])
        tables |= {config: [row], f"{config}-rejects": []}
    return make_build(folder, "coyo-recap", tables, license="l" * 200)


def hard_narration(folder):
    """Captions with many marks, long ones, right to left, and canvases of extreme shapes."""
    words = [f"w{n}" * (n % 40 + 1) for n in range(60)]
    starts = [sum(len(word) + 1 for word in words[:n]) for n in range(60)]
    many = [
        phrase(word, [(n / 70, 0, 1, 1)], start)
        for n, (word, start) in enumerate(zip(words, starts, strict=True))
    ]
    arabic = "سيارة حمراء " * 20
    rows = [
        grounded("many", " ".join(words), many, grounded_caption="g" * 3_000, width=1, height=900),
        grounded("rtl", arabic, [phrase(arabic[:200], [(0, 0, 1, 1)])], width=9_000, height=1),
    ]
    return make_build(folder, "grounded-narration", {"short": rows})


def test_nothing_is_loaded_and_nothing_complained_of(browse, tmp_path, spatial):
    page, log = tmp_path / "report.html", tmp_path / "net.json"
    builds = [spatial, hard_build(tmp_path / "hard"), hard_narration(tmp_path / "narration")]
    write_report(builds, page, corpus=None, samples=5, keys=[], seed=0)
    dom, stderr, asked = watched(browse, page, log)
    assert "CONSOLE" not in stderr
    assert Page(dom).all("title")[0].text == "3 builds · report"
    assert asked == set()
    # What would be seen if it were otherwise: a page that breaks its policy, and one without any.
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8").replace("</body>", f'<img src="{_NOWHERE}"></body>')
    broken.write_text(text, "utf-8")
    _, stderr, asked = watched(browse, broken, log)
    assert "CONSOLE" in stderr
    assert asked == set()
    broken.write_text(re.sub(_POLICY, "", text), "utf-8")
    assert watched(browse, broken, log)[2] == {_NOWHERE}


def watched(browse, page, log):
    """DOM, messages, and the URLs that were asked for, but for the browser's own errands."""
    dom, stderr = browse(page, "--dump-dom", f"--log-net-log={log}")
    urls = re.findall(r'"url":"((?:https?|wss?|ftp)://([^"/]*)[^"]*)"', log.read_text("utf-8"))
    own = re.compile(r"(^|\.)(google|googleapis|gvt1|gstatic)\.com(:\d+)?$")
    return dom, stderr, {url for url, host in urls if not own.search(host)}


@pytest.mark.parametrize("width", [1280, 420])
def test_pictures_are_shown_and_nothing_overflows(browse, tmp_path, width):
    hard = hard_build(tmp_path / "hard")
    pack([SourceItem("x", lambda: image_bytes(), b"x", {})], tmp_path / "corpus")
    wide = scene("w" * 300, image={"bytes": image_bytes(2000, 200), "path": None}, source="s" * 150)
    spatial = make_build(tmp_path / "spatial", "spatial-relation-qa", {"default": [scene(), wide]})
    page = tmp_path / "report.html"
    builds = [spatial, hard, hard_narration(tmp_path / "narration")]
    write_report(builds, page, corpus=tmp_path / "corpus", samples=5, keys=[], seed=0)
    text = re.sub(_POLICY, "", page.read_text("utf-8"))
    page.write_text(text.replace("</body>", MEASURE + "</body>"), "utf-8")
    dom, _ = browse(page, "--dump-dom", width=width)
    body = Page(dom).all("body")[0]
    found = json.loads(body["data-found"])
    assert sorted(found["widths"]) == [480, 480]
    assert found["overflow"] <= 0
    assert found["outside"] == []


@pytest.mark.parametrize("scheme", [1, 0])
def test_boxes_are_drawn_over_the_picture(browse, tmp_path, spatial, scheme):
    page, picture = tmp_path / "report.html", tmp_path / "shot.png"
    write_report([spatial], page, corpus=None, samples=1, keys=[], seed=0)
    flag = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, f"--screenshot={picture}", flag)
    with Image.open(picture) as opened:
        shot = opened.convert("RGB")
    assert (sum(shot.getpixel((5, 700))) > 600) == (scheme == 1), "light, or dark"
    points = [
        (x, y)
        for y in range(0, shot.height, 2)
        for x in range(0, shot.width, 2)
        if near(shot.getpixel((x, y)), _RED)
    ]
    left, top = min(x for x, _ in points), min(y for _, y in points)
    assert abs(max(x for x, _ in points) - left - 480) <= 6
    for x, y in ((120, 180), (240, 180), (180, 120)):  # edges of the first box, in pixels
        around = [
            shot.getpixel((left + x + d, top + y + e)) for d in (-3, -1, 0, 1) for e in (-1, 1)
        ]
        around += [shot.getpixel((left + x + d, top + y + e)) for d in (-1, 1) for e in (-3, 0, 3)]
        assert any(near(pixel, _BLUE_BOX) for pixel in around), (x, y, around)
    assert near(shot.getpixel((left + 180, top + 180)), _RED), "a box is not filled"


@pytest.mark.parametrize(
    ("switched_off", "seen"), [("boxes", [False, True]), ("wires", [True, False])]
)
def test_layers_can_be_switched_off(browse, tmp_path, switched_off, seen):
    row = space_row([solid((0, 0, 5), bbox=[0.05, 0.05, 0.95, 0.2])], [asked(-1, 0)])
    build = make_build(tmp_path / "b", "spatial-relation-qa", {"default": [row]})
    page, picture = tmp_path / "report.html", tmp_path / "shot.png"
    write_report([build], page, corpus=None, samples=1, keys=[], seed=0)
    switch = f'class="layer-{switched_off}"'
    text = page.read_text("utf-8")
    assert f"{switch} checked" in text
    page.write_text(text.replace(f"{switch} checked", switch), "utf-8")
    browse(page, f"--screenshot={picture}")
    with Image.open(picture) as opened:
        shot = np.asarray(opened.convert("RGB")).astype(int)
    rows, columns = np.nonzero((np.abs(shot - _RED) < 25).all(axis=2))
    shown = shot[rows.min() : rows.max(), columns.min() : columns.max()]
    blue = shown[..., 2] - shown[..., 0] > 60
    assert [blue[:80].any(), blue[90:].any()] == seen, "the 2D box lies above the wire frame"


def test_a_phrase_brings_out_its_boxes(browse, tmp_path):
    boxes = [[(0.1, 0.1, 0.4, 0.4), (0.6, 0.1, 0.9, 0.4)], [(0.2, 0.2, 0.8, 0.8)]]
    items = [phrase("a dog", boxes[0]), phrase("a cat", boxes[1], 7)]
    rows = [grounded(key, "a dog, a cat", items) for key in "ab"]
    build = make_build(tmp_path / "b", "grounded-narration", {"short": rows})
    page = tmp_path / "report.html"
    write_report([build], page, corpus=None, samples=2, keys=["a", "b"], seed=0)
    # A headless window may not have the focus yet, and then nothing in it matches :focus: what
    # takes the focus is asked of the page, and a class stands for it in the style.
    look = """<script>document.querySelector('mark.of-1').focus();
    document.activeElement.classList.add('focused');
    document.body.dataset.found = JSON.stringify([...document.querySelectorAll('rect, g')].map(
      e => [e.tagName, e.getAttribute('class').slice(-4), getComputedStyle(e).opacity]))</script>"""
    text = re.sub(_POLICY, "", page.read_text("utf-8"))
    text = re.sub(r":focus(?!-)", ".focused", text)
    page.write_text(text.replace("</body>", look + "</body>"), "utf-8")
    dom, _ = browse(page, "--dump-dom")
    found = json.loads(Page(dom).all("body")[0]["data-found"])
    pale = [["rect", "of-2", "0.12"], ["rect", "of-1", "1"], ["rect", "of-1", "1"]]
    pale += [["g", "of-2", "0.12"], ["g", "of-1", "1"], ["g", "of-1", "1"]]
    assert found == pale + [[tag, name, "1"] for tag, name, _ in pale], "of its own sample alone"


def near(pixel, colour):
    return all(abs(a - b) < 25 for a, b in zip(pixel, colour, strict=True))

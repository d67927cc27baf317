import re
import sys

import pyarrow.parquet as pq
import pytest
from making import do, make_corpus, write_recipe
from pages import Page, caption, image_bytes, make_build, scene

from vila2data.build.manifest import MANIFEST_FILE, read_manifest
from vila2data.build.views import connect
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.errors import BadInput, BuildError, MissingExtra, RunFailed
from vila2data.report import charts, write_report
from vila2data.report.source import opened
from vila2data.stats import statistics

HOSTILE = """<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>"'{{7*7}}"""


def test_the_page_loads_nothing_and_holds_no_script(report, recap, spatial):
    page = report(recap, spatial)
    assert not page.all("script")
    policy = next(e for e in page.all("meta") if e["http-equiv"] == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert re.match(r"data:|#", value), (element.tag, value)
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_every_part_and_config_stands_on_the_page(report, recap):
    page = report(recap)
    for part in ("facts", "funnel", "numbers", "provenance", "samples"):
        assert f"build-1-{part}" in page.ids()
    targets = {a["href"][1:] for a in page.all("a")}
    assert targets <= set(page.ids())
    manifest = read_manifest(recap)
    _, rows = page.table("Configs")
    assert [row[0] for row in rows] == manifest.configs
    assert [row[2] for row in rows] == [str(manifest.rows_of(c)) for c in manifest.configs]
    text = page.all("body")[0].text
    for told in ("cc0-1.0", "read the corpus", "image_empty", "vila2data 0.1.0", "corpus corpus"):
        assert told in " ".join(text.split()), told
    assert len(page.all("figure", "chart")) == 2


def test_numbers_are_those_of_the_queries(report, recap):
    page = report(recap)
    _, rows = page.table("Caption length")
    expected = statistics(recap)["length"].dicts()
    assert [row[0] for row in rows] == [row["config"] for row in expected]
    assert [float(row[2]) for row in rows] == [row["mean_words"] for row in expected]
    assert [float(row[3]) for row in rows] == [row["std_words"] for row in expected]
    _, rows = page.table("Captioners and engines")
    kept = dict(
        connect(recap).execute("SELECT config, count(*) FROM captions GROUP BY 1").fetchall()
    )
    assert {row[0]: int(row[4]) for row in rows} == {
        c: kept[c] for c in ("round1", "round2", "ocr")
    }
    assert {row[0]: int(row[5]) for row in rows} == {"round1": 1, "round2": 0, "ocr": 0}
    _, rows = page.table("Rejected")
    assert ["round1-rejects", "repetition", "1", "4"] in rows


def test_hostile_texts_are_escaped(report, tmp_path):
    row = caption("k</bdi>" + HOSTILE, HOSTILE, round=1, original=HOSTILE, captioner=HOSTILE)
    bad = caption("b", HOSTILE, round=1, reason=HOSTILE, url="javascript:alert(3)")
    tables = {"original": [], "round1": [row], "round1-rejects": [bad]}
    sources = [{"corpus": HOSTILE, HOSTILE: {"x": HOSTILE}}]
    changes = {"sources": sources, "license": HOSTILE, "recipe": {"own": "HALF " + HOSTILE}}
    build = make_build(tmp_path / "hostile", "coyo-recap", tables, **changes)
    manifest = build / MANIFEST_FILE
    manifest.write_text(manifest.read_text("utf-8").replace("HALF", "\\ud800"), "utf-8")
    page = report(build)
    assert not page.all("script")
    assert not [e for e in page.all("img") if not (e["src"] or "").startswith("data:")]
    assert "onerror" not in {name for e in page.elements for name in e.attributes}
    assert "{{7*7}}" in page.html, "texts are no templates"
    panels = [e.text for e in page.all("p", "text")]
    assert panels.count(HOSTILE) >= 3
    labels = [e.text for e in page.all("text")]
    assert any(label.startswith("<script>") for label in labels), "the charts name the reason"


def test_texts_stand_in_order_and_rejected_ones_with_their_reason(report, tmp_path):
    tables = {
        "ocr": [caption("a", "Stop.", round=1, task="ocr")],
        "round10": [caption("a", "Ten.", round=10)],
        "round2-rejects": [caption("a", "two two two", round=2, reason="repetition")],
        "round2": [],
        "original": [caption("a", "a photo")],
        "spatial": [caption("a", "The car is left.", round=1, task="spatial")],
    }
    page = report(make_build(tmp_path / "b", "coyo-recap", tables))
    titles = [panel.text.split()[0] for panel in page.all("section", "panel")]
    assert titles == ["original", "round2", "round10", "spatial", "ocr"]
    rejected = page.all("section", "rejected")
    assert [" ".join(e.text.split()) for e in rejected] == [
        "round2 rejected: repetition two two two 3 words 9 tokens prompt long-v1 ended by stop tiny"
    ]


def test_an_original_text_is_shown_where_only_recaptions_are_stored(report, tmp_path):
    tables = {"round1": [caption("a", "Long.", round=1, original="short")]}
    page = report(make_build(tmp_path / "b", "coyo-recap", tables | {"round1-rejects": []}))
    assert [e.text for e in page.all("p", "text")] == ["short", "Long."]


def test_unknown_keys_are_refused_by_name(tmp_path, recap, spatial):
    for builds in ([recap], [recap, spatial]):
        with pytest.raises(BadInput, match="no sample has the key 'zz', 'y<y'") as error:
            write_report(
                builds, tmp_path / "r.html", corpus=None, samples=3, keys=["a", "zz", "y<y"], seed=0
            )
        assert error.value.exit_status == 2
    assert not (tmp_path / "r.html").exists()


def test_given_keys_are_shown_in_their_order_where_they_exist(report, recap, spatial):
    page = report(recap, spatial, keys=["s1", "c", "a", "c"])
    assert [e.text.split()[0] for e in page.all("article")] == ["c", "a", "s1"]


def test_a_draw_does_not_depend_on_the_order_of_rows(report, tmp_path):
    rows = [caption(f"{n:03}", "A text.", round=1) for n in range(60)]
    empty = {"round1-rejects": []}
    one = make_build(tmp_path / "1", "coyo-recap", {"round1": rows} | empty)
    two = make_build(tmp_path / "2", "coyo-recap", {"round1": rows[::-1]} | empty)
    shown = [shown_keys(report(build, samples=5)) for build in (one, two)]
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 5
    assert shown_keys(report(one, samples=5, seed=1)) != shown[0]
    assert shown_keys(report(one, samples=99)) != sorted(shown_keys(report(one, samples=99)))
    assert shown_keys(report(one, samples=0)) == []


def test_builds_show_the_same_samples_where_they_share_some(report, tmp_path):
    def build(name, numbers):
        rows = [caption(f"{n:03}", f"Text of {name}.", round=1) for n in numbers]
        tables = {"round1": rows, "round1-rejects": []}
        return make_build(tmp_path / name, "coyo-recap", tables, version=name)

    page = report(build("1.0.0", range(100)), build("1.1.0", range(90, 190)), samples=4)
    shown = shown_keys(page)
    assert len(shown) == 8
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#build-2-")]
    shared = set(shown[:4]) & set(shown[4:])
    assert all(90 <= int(key) < 100 for key in shared)
    assert len(links) == len(shared)
    same = report(build("2.0.0", range(50)), build("2.1.0", range(50)), samples=4)
    assert shown_keys(same)[:4] == shown_keys(same)[4:]
    assert {"overview", "build-1", "build-2"} <= set(same.ids())
    _, rows = same.table("Caption length, all builds")
    assert [row[:3] for row in rows] == [
        ["coyo-recap 2.0.0", "round1", "50"],
        ["coyo-recap 2.1.0", "round1", "50"],
    ]


def shown_keys(page: Page) -> list[str]:
    return [article.text.split()[0] for article in page.all("article")]


def test_the_page_does_not_grow_with_the_rows(report, tmp_path):
    sizes = []
    for count in (300, 6_000):
        rows = [caption(f"{n:06}", "word " * (1 + n * 7919 % 60), round=1) for n in range(count)]
        reasons = [f"reason {n}" for n in range(200)]
        bad = [caption(f"r{n}", "x", round=1, reason=reason) for n, reason in enumerate(reasons)]
        tables = {"round1": rows, "round1-rejects": bad}
        sizes.append(
            report(make_build(tmp_path / str(count), "coyo-recap", tables), samples=3).html
        )
    assert len(sizes[1]) < 1.05 * len(sizes[0])
    assert "100 more rows are not shown" in sizes[1]
    assert "other reasons" in sizes[1]


def test_very_long_texts_are_cut_and_say_so(report, tmp_path):
    tables = {"round1": [caption("a", "é" * 50_000, round=1)], "round1-rejects": []}
    page = report(make_build(tmp_path / "b", "coyo-recap", tables))
    assert "44,000 more characters are not shown" in page.html
    assert len(page.html) < 100_000


def test_charts_share_one_axis_and_count_every_caption(recap, tmp_path, monkeypatch):

    rows = [caption(str(n), "w " * n, round=1) for n in range(1, 1001)]
    tables = {"round1": [*rows, caption("x", "w " * 9000, round=1)], "round1-rejects": []}
    long = make_build(tmp_path / "long", "coyo-recap", tables)
    with opened([recap, long]) as sources:
        assert charts.length_scale(sources[:1]) == charts.LengthScale(1, 9)
        scale = charts.length_scale(sources)
        assert scale == charts.LengthScale(25, 40), "99.5 percent have up to 996 words"
        drawn = []
        monkeypatch.setattr(charts, "_svg", lambda chart: drawn.append(chart.to_dict()) or "")
        assert "holds all longer captions" in charts.length_chart(sources[1], scale).note
    bars = drawn[0]["data"]["values"]
    assert [bar["from"] for bar in bars] == list(range(0, 1000, 25))
    shares = [round(bar["share"] * 1001, 6) for bar in bars]
    assert shares == [24, *[25] * 38, 27], "the last: 975 to 1000 words, and the longest"


def test_charts_can_only_be_looked_at():
    charts.check_svg(
        '<svg xmlns="http://www.w3.org/2000/svg"><text aria-label="url(x)">a</text></svg>'
    )
    for part in ("<script/>", '<a href="x"/>', '<g onload="x"/>', '<path fill="url(http://x)"/>'):
        with pytest.raises(RunFailed, match="a chart holds"):
            charts.check_svg(f"<svg>{part}</svg>")


def test_images_come_from_the_corpus_by_key_and_hash(report, tmp_path):
    corpus, recipe = make_corpus(tmp_path / "corpus", 6), write_recipe(tmp_path / "r.yaml")
    build = do(recipe)
    page = report(build, corpus=corpus)
    assert len(page.all("article")) == len(page.all("img")) == 6
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert "give --corpus" in report(build).html
    other = [SourceItem(f"{n:05d}", lambda: image_bytes(), b"x", {}) for n in range(6)]
    pack(other, tmp_path / "other")
    page = report(build, corpus=tmp_path / "other")
    assert page.all("img") == []
    assert "the corpus holds none with this key and hash" in page.html


def test_the_same_inputs_give_the_same_bytes(tmp_path, recap, spatial):
    pages = []
    for name in ("1.html", "2.html"):
        write_report([recap, spatial], tmp_path / name, corpus=None, samples=9, keys=[], seed=3)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_bad_input_is_told_in_one_line(tmp_path, recap, report):
    with pytest.raises(BadInput, match="is a folder; give the name of a file"):
        write_report([recap], tmp_path, corpus=None, samples=1, keys=[], seed=0)
    with pytest.raises(BuildError, match="is no build"):
        report(tmp_path / "nothing")
    with pytest.raises(BadInput, match="at least one build"):
        report()
    next((recap / "data" / "round1").glob("*.parquet")).write_bytes(b"PAR1 damaged")
    with pytest.raises(BuildError, match=r"cannot be read .*vila2data verify"):
        report(recap)


def test_without_altair_the_extra_is_named(report, recap, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vila2data\[report\]'"):
        report(recap)


def test_builds_of_the_same_version_are_told_apart(report, recap, tmp_path):
    copy = make_build(tmp_path / "copy", "coyo-recap", {"round1": [], "round1-rejects": []})
    titles = [e.text for e in report(recap, copy).all("h2")]
    assert titles == ["Overview", f"coyo-recap 1.0.0 ({recap})", f"coyo-recap 1.0.0 ({copy})"]


def test_a_build_without_rows_has_a_page(report, tmp_path):
    tables = {"original": [], "round1": [], "round1-rejects": []}
    page = report(make_build(tmp_path / "b", "coyo-recap", tables, funnel=[], sources=[]))
    assert "The manifest counts no steps." in page.html
    assert page.all("figure") == page.all("article") == []


def test_a_row_group_of_pictures_is_read_for_the_shown_samples(report, tmp_path):
    rows = [scene(f"s{n}", image={"bytes": image_bytes(32, 32), "path": None}) for n in range(40)]
    build = make_build(tmp_path / "b", "spatial-relation-qa", {"default": rows})
    assert pq.read_metadata(next(build.rglob("*.parquet"))).num_rows == 40
    assert len(report(build, samples=3).all("img")) == 3


def test_statistics_of_other_data_sets_are_shown(report, tmp_path):
    stats = {"boxes": 3, "relations": {"left_of": 2}, "by_source": [{"source": "made", "rows": 1}]}
    tables = {"default": [scene()]}
    page = report(make_build(tmp_path / "b", "spatial-relation-qa", tables, stats=stats))
    assert page.table("Statistics") == (["", "value"], [["boxes", "3"]])
    assert page.table("Relations")[1] == [["left_of", "2"]]
    assert page.table("By source") == (["source", "rows"], [["made", "1"]])
    assert page.all("figure", "chart") == []

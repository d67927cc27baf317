"""The reader on corpora that are as they should be."""

import gc
import io
import tracemalloc
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pytest
from making import make_corpus
from strangers import jpeg, sample, tar_of

from vila2data.corpus import list_shards, read_corpus, read_shard
from vila2data.corpus.names import key_fault, key_of, printable, split_name
from vila2data.errors import CorpusError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 20, shards=4)


def test_samples_come_in_order_by_shard(corpus: Path) -> None:
    samples = list(read_corpus(corpus))
    assert [s.key for s in samples] == [f"{n:05d}" for n in range(20)]
    assert [s.index for s in samples] == list(range(5)) * 4
    assert [s.shard for s in samples] == [f"{n // 5:05d}.tar" for n in range(20)]


def test_any_subset_of_shards_can_be_read_in_any_order(corpus: Path) -> None:
    by_shard = [[s.key for s in read_shard(shard)] for shard in list_shards(corpus)]
    chosen = [s.key for s in read_corpus(corpus, shards=[3, 1])]
    assert chosen == by_shard[3] + by_shard[1]
    assert [s.key for s in read_corpus(corpus, shards=[])] == []


def test_only_the_samples_that_are_wanted_are_given(corpus: Path) -> None:
    shard = list_shards(corpus)[1]
    samples = list(read_shard(shard))
    assert list(read_shard(shard, only={1, 4})) == [samples[1], samples[4]]
    assert list(read_shard(shard, only=set())) == []


def test_what_was_packed_is_what_is_read(corpus: Path) -> None:
    samples = list(read_corpus(corpus))
    assert samples[0].text.startswith("alt text ")
    assert samples[6].text == ""
    assert samples[6].text_problem is not None
    assert samples[3].id == 10**12 + 3
    assert samples[3].url == "https://example.org/3"
    assert samples[3].metadata["key"] == "00003"
    lying = samples[4].header
    assert lying is not None
    assert not lying.upright


def test_webdataset_reads_the_same(corpus: Path) -> None:
    import webdataset

    shards = [str(shard) for shard in list_shards(corpus)]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False))
    ours = list(read_corpus(corpus))
    assert [t["__key__"] for t in theirs] == [o.key for o in ours]
    for their, our in zip(theirs, ours, strict=True):
        assert their[our.suffix] == our.image
        assert their.get("txt", b"").decode() == our.text
        assert sha256(their[our.suffix]).hexdigest() == our.image_sha256


def test_webdataset_decodes_what_was_packed(corpus: Path) -> None:
    import webdataset

    shards = [str(shard) for shard in list_shards(corpus)]
    decoded = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert all(s[o.suffix].mode == "RGB" for s, o in zip(decoded, read_corpus(corpus), strict=True))


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    parts = [(f"{n:03d}.jpg", jpeg(n) + bytes(100_000)) for n in range(30)]
    for shard in range(8):
        tar_of(tmp_path / f"{shard:05d}.tar", parts)

    def peak(shards: int) -> int:
        gc.collect()
        tracemalloc.start()
        for _ in read_corpus(tmp_path, shards=range(shards)):
            pass
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(1)
    one, eight = peak(1), peak(8)
    assert one < 2_000_000
    assert eight < one * 1.1


def test_a_sample_is_given_before_the_rest_is_read(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "00000.tar", chain(sample("0"), sample("1")))
    content = tar.read_bytes()
    tar.write_bytes(content[: content.rindex(b"1.txt") - 5])
    assert next(read_shard(tar)).problem is None


def test_members_of_no_use_are_no_part_of_a_sample(tmp_path: Path) -> None:
    parts = [("0.seg.png", b"mask"), ("0.JPG", jpeg()), ("0.cls", b"3"), ("0.txt", b"text")]
    (found,) = read_shard(tar_of(tmp_path / "00000.tar", parts))
    assert (found.suffix, found.text, found.problem) == ("jpg", "text", None)


def test_sample_without_an_image_is_reported(tmp_path: Path) -> None:
    (found,) = read_shard(tar_of(tmp_path / "00000.tar", [("0.txt", b"text")]))
    assert found.problem is not None
    assert found.problem.reason == "image_missing"


def test_folder_without_tars_is_refused_and_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no \.tar shards; `vila2data corpus pack` makes"):
        list_shards(tmp_path)
    with pytest.raises(CorpusError, match="no such folder; `vila2data corpus pack` makes"):
        list_shards(tmp_path / "nowhere")


def test_only_finished_tars_are_shards(tmp_path: Path) -> None:
    tar_of(tmp_path / "00001.tar", sample("0"))
    for name in ("._00001.tar", ".00002.tar.partial", "00003.parquet", "pack.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "00000.tar").mkdir()
    assert [shard.name for shard in list_shards(tmp_path)] == ["00001.tar"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0.jpg", ("0", "jpg")),
        ("a.b/0.seg.PNG", ("a.b/0", "seg.png")),
        ("plain", ("plain", "")),
        (".hidden", ("", "hidden")),
        ("a/", ("a/", "")),
    ],
)
def test_key_ends_at_the_first_dot_of_the_base_name(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("0.jpg", "0"),
        ("train/0.v2.JPEG", "train_0_v2"),
        ("a b/ü.png", "a b_ü"),
        ("../../etc/x.jpg", "______etc_x"),
        ("noimage.txt", "noimage_txt"),
        (".jpg", ""),
    ],
)
def test_key_of_a_file_has_neither_dots_nor_folders(name: str, key: str) -> None:
    assert key_of(name) == key


def test_printable_text_is_one_line_within_bounds() -> None:
    assert printable("a\tb\n\x7f\u2028\ud800ü") == r"a\tb\n\x7f\u2028\ud800ü"
    assert printable("x" * 20, max_chars=10) == "xxxxxxxxx…"
    assert printable("👩‍🚀 zero-width joiner") == "👩‍🚀 zero-width joiner"


@pytest.mark.parametrize("key", ["0", "a/b c", "ü", "👩‍🚀", "x" * 1000])
def test_key_of_ordinary_characters_is_good(key: str) -> None:
    assert key_fault(key) is None


@pytest.mark.shared
def test_img2dataset_tar_is_read(shared_data: Path) -> None:
    (found,) = read_corpus(shared_data / "captions" / "webdataset")
    assert (found.key, found.problem, found.text_problem) == ("0", None, None)
    assert found.header is not None
    assert found.header.format == "JPEG"
    assert len(found.text) > 20
    assert len(io.BytesIO(found.image).getvalue()) == 225_807

"""Images joined to captions on demand."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from making import make_corpus
from strangers import jpeg, sample, tar_of

from vila2data.corpus import attach_images, read_corpus
from vila2data.corpus.images import ImageRefused, decode
from vila2data.corpus.index import CorpusIndex, cache_folder
from vila2data.errors import CorpusError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(corpus: Path) -> Any:
    import datasets

    samples = list(read_corpus(corpus))
    content = {"key": [s.key for s in samples], "image_sha256": [s.image_sha256 for s in samples]}
    return datasets.Dataset.from_dict(content)


def expected(corpus: Path) -> list[bytes]:
    from vila2data.corpus import ImageLimits

    return [decode(s.image, ImageLimits()).tobytes() for s in read_corpus(corpus)]


def test_map_style_and_streaming_rows_get_their_upright_images(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 8, shards=2)
    rows = rows_of(corpus)
    attached = attach_images(rows, corpus)
    assert [row["image"].tobytes() for row in attached] == expected(corpus)
    assert attached[3]["key"] == "00003"
    assert [image.tobytes() for image in attached[2:5]["image"]] == expected(corpus)[2:5]
    streamed = attach_images(rows.to_iterable_dataset(), corpus, column="picture")
    assert [row["picture"].tobytes() for row in streamed] == expected(corpus)


def test_nothing_is_read_before_a_row_is(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    tar_of(corpus / "00000.tar", [*sample("0"), ("1.jpg", b"no image")])
    attached = attach_images(rows_of(corpus), corpus)
    assert attached[0]["image"].size == (16, 12)
    with pytest.raises(ImageRefused, match="image_undecodable"):
        attached[1]


def test_another_corpus_is_refused_when_a_row_is_read(tmp_path: Path) -> None:
    tar_of(tmp_path / "one" / "00000.tar", sample("0", 1))
    tar_of(tmp_path / "two" / "00000.tar", sample("0", 2))
    tar_of(tmp_path / "three" / "00000.tar", sample("9", 1))
    rows = rows_of(tmp_path / "one")
    with pytest.raises(
        CorpusError, match="two: holds another image under key '0': is it the corpus"
    ):
        attach_images(rows, tmp_path / "two")[0]
    with pytest.raises(CorpusError, match="three: has no image key '0'"):
        attach_images(rows, tmp_path / "three")[0]
    with pytest.raises(CorpusError, match="no such folder"):
        attach_images(rows, tmp_path / "four")


def test_images_of_the_same_key_are_told_apart_by_their_hash(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    tar_of(corpus / "00000.tar", [*sample("0", 1), *sample("0", 2)])
    tar_of(corpus / "00001.tar", sample("0", 3))
    index = CorpusIndex(corpus)
    assert list(index.images("0")) == [jpeg(1), jpeg(2), jpeg(3)]
    for found in read_corpus(corpus):
        assert index.image("0", str(found.image_sha256)) == found.image


def test_index_is_made_once_and_anew_when_a_shard_changes(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    tar = tar_of(corpus / "00000.tar", sample("0", 1))
    CorpusIndex(corpus)
    (file,) = cache_folder().iterdir()
    made = file.stat().st_mtime_ns
    CorpusIndex(corpus)
    assert file.stat().st_mtime_ns == made
    tar_of(tar, [*sample("0", 1), *sample("1", 2)])
    os.utime(tar, ns=(1, 1))
    assert list(CorpusIndex(corpus).images("1")) == [jpeg(2)]
    assert len(list(cache_folder().iterdir())) == 2


def test_index_leaves_out_what_must_not_be_read_and_survives_broken_shards(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    tar_of(corpus / "00000.tar", [*sample("../0"), *sample("caf\udce9"), *sample("1", 1)])
    (corpus / "00001.tar").write_bytes(b"no tar" * 500)
    tar_of(corpus / "00002.tar", sample("2", 2))
    index = CorpusIndex(corpus)
    assert list(index.images("../0")) == []
    assert [list(index.images(key)) for key in "12"] == [[jpeg(1)], [jpeg(2)]]


def test_cache_may_have_any_name(tmp_path: Path) -> None:
    tar_of(tmp_path / "corpus" / "00000.tar", sample("0"))
    index = CorpusIndex(tmp_path / "corpus", cache=tmp_path / "a ?#% ü")
    assert list(index.images("0")) == [jpeg()]


def test_index_goes_to_other_processes(tmp_path: Path) -> None:
    tar_of(tmp_path / "corpus" / "00000.tar", sample("0"))
    index = CorpusIndex(tmp_path / "corpus")
    assert list(index.images("0")) == [jpeg()]
    assert list(pickle.loads(pickle.dumps(index)).images("0")) == [jpeg()]


@pytest.mark.parametrize("read_first", [False, True])
def test_data_loader_with_workers_gets_every_image(tmp_path: Path, read_first: bool) -> None:
    torch = pytest.importorskip("torch")
    corpus = make_corpus(tmp_path / "corpus", 10, shards=2)
    attached = attach_images(rows_of(corpus), corpus)
    if read_first:
        attached[0]  # opens the index before the workers are forked
    loader = torch.utils.data.DataLoader(
        attached, batch_size=3, num_workers=2, collate_fn=lambda rows: rows
    )
    found = [row["image"].tobytes() for batch in loader for row in batch]
    assert found == expected(corpus)

"""The reader against tars that nobody should trust."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
from strangers import Part, encoded, huge_png, jpeg, picture, sample, special, tar_of

from vila2data.corpus import ImageLimits, ReadLimits, Sample, read_corpus, read_shard


def read(tmp_path: Path, *parts: Part, limits: ReadLimits | None = None) -> list[Sample]:
    return list(read_shard(tar_of(tmp_path / "00000.tar", parts), limits=limits))


def reasons(samples: Iterable[Sample]) -> list[str | None]:
    return [s.problem.reason if s.problem else None for s in samples]


def good(samples: Iterable[Sample]) -> list[str]:
    return [s.key for s in samples if s.problem is None]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "image_empty"),
        (b"this is no image", "image_undecodable"),
        (b"%PDF-1.4", "image_undecodable"),
        (b"\xff\xd8\xff", "image_undecodable"),
        (jpeg()[:30], "image_undecodable"),
        (b"\x89PNG\r\n\x1a\n", "image_undecodable"),
        (b"RIFF\x00\x00\x00\x00WAVE", "image_undecodable"),
        (b"GIF89a", "image_undecodable"),
        (b"BM", "image_undecodable"),
        (huge_png(), "image_too_many_pixels"),
        (huge_png(2**31 - 1, 2**31 - 1), "image_too_many_pixels"),
    ],
)
def test_image_that_cannot_be_used_is_reported_and_its_neighbours_are_read(
    tmp_path: Path, image: bytes, reason: str
) -> None:
    samples = read(tmp_path, *sample("0"), ("1.jpg", image), ("1.txt", b"t"), *sample("2"))
    assert reasons(samples) == [None, reason, None]
    assert samples[1].text == "t"


def test_members_too_large_are_not_read(tmp_path: Path) -> None:
    limits = ReadLimits(ImageLimits(max_bytes=100), max_text_bytes=10, max_metadata_bytes=20)
    parts = [("0.jpg", bytes(101)), ("0.txt", b"x" * 11), ("0.json", b'{"a": "01234567890123456"}')]
    found = read(tmp_path, *parts, limits=limits)[0]
    assert found.problem is not None
    assert (found.problem.reason, found.image) == ("image_too_many_bytes", b"")
    assert found.problem.detail == "101 bytes, at most 100"
    assert found.text_problem is not None
    assert (found.text_problem.reason, found.text) == ("text_too_long", "")
    assert found.metadata_problem is not None
    assert (found.metadata_problem.reason, found.metadata) == ("metadata_too_long", {})


def test_content_decides_what_an_image_is_and_not_its_name(tmp_path: Path) -> None:
    small = picture()
    samples = read(
        tmp_path,
        ("0.jpg", encoded(small, "PNG")),
        ("1.png", encoded(small, "GIF")),
        ("2.webp", encoded(small, "BMP")),
        ("3.gif", encoded(small, "WEBP")),
        ("4.png", b"text named png"),
    )
    assert [s.header and s.header.format for s in samples] == ["PNG", "GIF", "BMP", "WEBP", None]
    assert reasons(samples) == [None, None, None, None, "image_undecodable"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"caf\xe9", "text_not_utf8"),
        (b"x" * 1_000_000, "text_too_long"),
        (b"", "text_missing"),
        (b" \n\t ", "text_missing"),
        (b"nul \x00 byte", "text_control_characters"),
        (b"\x1b[31mred", "text_control_characters"),
        ("lone \ud800".encode("utf-8", "surrogatepass"), "text_not_utf8"),
    ],
)
def test_text_that_cannot_be_used_is_reported_and_its_image_is_read(
    tmp_path: Path, text: bytes, reason: str
) -> None:
    found = read(tmp_path, ("0.jpg", jpeg()), ("0.txt", text))[0]
    assert found.problem is None
    assert found.text_problem is not None
    assert (found.text_problem.reason, found.text) == (reason, "")


def test_text_of_the_metadata_stands_in_only_for_a_missing_member(tmp_path: Path) -> None:
    told = json.dumps({"caption": "told"}).encode()
    parts = [("0.jpg", jpeg()), ("0.json", told), ("1.jpg", jpeg(1)), ("1.json", told)]
    samples = read(tmp_path, *parts, ("1.txt", b"\xff"))
    assert [s.text for s in samples] == ["told", ""]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"id": ' + b"9" * 10_000 + b"}",
        b"{",
        b"[1, 2]",
        b"null",
        b"\xff\xfe",
        b'{"a": "\xff"}',
    ],
)
def test_metadata_that_cannot_be_read_is_reported_and_its_image_is_read(
    tmp_path: Path, content: bytes
) -> None:
    found = read(tmp_path, ("0.jpg", jpeg()), ("0.json", content), ("0.txt", b"t"))[0]
    assert (found.problem, found.text, found.metadata) == (None, "t", {})
    assert found.metadata_problem is not None
    assert found.metadata_problem.reason == "metadata_unreadable"


@pytest.mark.parametrize(
    ("metadata", "id", "url"),
    [
        ('{"id": NaN, "url": NaN}', None, None),
        ('{"id": 1e999, "url": 7}', None, None),
        ('{"id": 9223372036854775807, "url": "http://a/ü"}', 2**63 - 1, "http://a/ü"),
        ('{"id": 9223372036854775808, "url": "\\ud800"}', None, None),
        ('{"id": true, "url": ["x"]}', None, None),
        ('{"id": "5", "url": "' + "x" * 9000 + '"}', None, None),
    ],
)
def test_metadata_gives_only_an_id_and_url_that_a_table_can_hold(
    tmp_path: Path, metadata: str, id: int | None, url: str | None
) -> None:
    found = read(tmp_path, ("0.jpg", jpeg()), ("0.json", metadata.encode()))[0]
    assert (found.id, found.url) == (id, url)


@pytest.mark.parametrize(
    "name",
    ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "..\\out.jpg", "\\out.jpg", "..//out.jpg"],
)
def test_member_whose_name_leaves_the_folder_is_reported_and_not_read(
    tmp_path: Path, name: str
) -> None:
    samples = read(tmp_path, *sample("0"), (name, jpeg(1)), *sample("2"))
    assert reasons(samples) == [None, "member_name_unsafe", None]
    assert samples[1].image == b""
    assert list(tmp_path.parent.glob("out*")) == []


def test_dots_that_do_not_climb_are_ordinary(tmp_path: Path) -> None:
    samples = read(tmp_path, ("a..b/c.jpg", jpeg()), ("./d.jpg", jpeg(1)))
    assert good(samples) == ["a..b/c", "./d"]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_member_that_is_no_file_is_reported_and_not_read(tmp_path: Path, kind: bytes) -> None:
    samples = read(tmp_path, *sample("0"), special("1.jpg", kind), *sample("2"))
    assert reasons(samples) == [None, "member_not_a_file", None]
    assert samples[1].image == b""


def test_link_in_the_place_of_a_text_is_reported_and_not_followed(tmp_path: Path) -> None:
    found = read(tmp_path, ("0.jpg", jpeg()), special("0.txt", tarfile.SYMTYPE))[0]
    assert found.problem is None
    assert found.text_problem is not None
    assert (found.text_problem.reason, found.text) == ("member_not_a_file", "")


def test_link_without_a_suffix_is_reported_as_a_link(tmp_path: Path) -> None:
    assert reasons(read(tmp_path, special("evil", tarfile.SYMTYPE))) == ["member_not_a_file"]


def test_folders_are_passed_over(tmp_path: Path) -> None:
    samples = read(tmp_path, special("x.jpg", tarfile.DIRTYPE), *sample("x.jpg/0"))
    assert good(samples) == ["x.jpg/0"]


def sparse_header(name: str, size: int, real_size: int, *, map_blocks: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (0, size)
    header[482] = 1 if map_blocks else 0
    header[483:495] = b"%011o\0" % real_size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    blocks = [bytearray(512) for _ in range(map_blocks)]
    for block in blocks[:-1]:
        block[504] = 1
    return bytes(header) + b"".join(blocks)


@pytest.mark.parametrize("map_blocks", [0, 1, 3])
def test_sparse_member_is_reported_and_what_follows_is_found(
    tmp_path: Path, map_blocks: int
) -> None:
    tar = tar_of(tmp_path / "00000.tar", sample("1"))
    sparse = sparse_header("0.jpg", 512, 10**9, map_blocks=map_blocks) + bytes(512)
    tar.write_bytes(sparse + tar.read_bytes())
    samples = list(read_shard(tar))
    assert reasons(samples) == ["member_not_a_file", None]
    assert "sparse" in str(samples[0].problem)


def test_sparse_member_in_pax_form_is_reported(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0.jpg")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999"}
    tar = tar_of(tmp_path / "00000.tar", [info, *sample("1")], format=tarfile.PAX_FORMAT)
    assert reasons(read_shard(tar)) == ["member_not_a_file", None]


def pax(records: dict[str, bytes], *, kind: bytes = b"x") -> bytes:
    content = b""
    for key, value in records.items():
        rest = f" {key}=".encode() + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        content += str(length).encode() + rest
    return raw_member(kind, "pax", content)


def raw_member(kind: bytes, name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def with_pax(tmp_path: Path, header: bytes) -> list[Sample]:
    tar = tar_of(tmp_path / "00000.tar", [("plain.jpg", jpeg()), *sample("1")])
    tar.write_bytes(header + tar.read_bytes())
    return list(read_shard(tar))


def test_pax_name_replaces_the_short_one(tmp_path: Path) -> None:
    assert good(with_pax(tmp_path, pax({"path": "grün.jpg".encode()}))) == ["grün", "1"]


@pytest.mark.parametrize(
    ("path", "key", "reason"),
    [
        (b"../../evil.jpg", "../../evil", "member_name_unsafe"),
        (b"/evil.jpg", "/evil", "member_name_unsafe"),
        (b"a\x00b.jpg", r"a\x00b", "key_unusable"),
        (b"a\nb.jpg", r"a\nb", "key_unusable"),
        (b"\x1b[2J.jpg", r"\x1b[2J", "key_unusable"),
        (b"caf\xe9.jpg", r"caf\udce9", "key_unusable"),
        (b".jpg", "", "key_unusable"),
    ],
)
def test_pax_name_that_cannot_be_used_is_reported_in_printable_form(
    tmp_path: Path, path: bytes, key: str, reason: str
) -> None:
    samples = with_pax(tmp_path, pax({"path": path}))
    assert (samples[0].key, reasons(samples)) == (key, [reason, None])
    assert str(samples[0].problem).isprintable()


def test_name_of_half_a_megabyte_is_reported_and_cut(tmp_path: Path) -> None:
    samples = with_pax(tmp_path, pax({"path": b"x" * 500_000 + b".jpg"}))
    assert reasons(samples) == ["key_unusable", None]
    assert len(samples[0].key) == 1000


def test_pax_header_too_large_to_hold_costs_its_own_member_only(tmp_path: Path) -> None:
    samples = with_pax(tmp_path, pax({"comment": b"x" * 3_000_000}))
    assert reasons(samples) == ["member_not_a_file", None]


@pytest.mark.parametrize(
    "content", [b"no record at all", b"99999999999 a=b\n", b"3 a", b"-5 a=b\n"]
)
def test_broken_pax_header_costs_its_own_member_only(tmp_path: Path, content: bytes) -> None:
    samples = with_pax(tmp_path, raw_member(b"x", "pax", content))
    assert reasons(samples) == ["member_not_a_file", None]


@pytest.mark.parametrize("size", [b"99999999999999999999", b"-1", b"1e3", b"nan", b""])
def test_broken_pax_size_ends_the_shard_with_a_reason(tmp_path: Path, size: bytes) -> None:
    assert reasons(with_pax(tmp_path, pax({"size": size}))) == ["shard_damaged"]


def test_pax_size_beyond_the_file_ends_the_shard_with_a_reason(tmp_path: Path) -> None:
    samples = with_pax(tmp_path, pax({"size": b"9999999999999999999"}))
    assert reasons(samples) == ["shard_truncated", "shard_truncated"]
    assert samples[0].image == b""


def test_size_of_a_pax_header_for_all_members_holds(tmp_path: Path) -> None:
    samples = with_pax(tmp_path, pax({"comment": b"by a stranger"}, kind=b"g"))
    assert good(samples) == ["plain", "1"]


@pytest.mark.parametrize(
    "size", [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"88888888888\0", b"-0000000001\0"]
)
def test_impossible_size_ends_the_shard_with_a_reason(tmp_path: Path, size: bytes) -> None:
    tar = tar_of(tmp_path / "00000.tar", sample("0"))
    content = bytearray(tar.read_bytes())
    content[124:136] = size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    tar.write_bytes(content)
    assert set(reasons(read_shard(tar))) <= {"shard_damaged", "shard_truncated"}


def test_names_of_both_tar_formats_are_read(tmp_path: Path) -> None:
    long = "folder/" * 20 + "x" * 120
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        tar = tar_of(tmp_path / f"{format}.tar", sample(long), format=format)
        assert good(read_shard(tar)) == [long]
    split = "f" * 120 + "/" + "x" * 60
    assert good(read(tmp_path, *sample(split))) == [split]


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "shard_truncated", "is empty"),
        (b"x" * 100, "shard_truncated", "ends without an end mark, at byte 100"),
        (b"this is no tar at all " * 100, "shard_damaged", "is no tar"),
        (gzip.compress(b"x" * 10_000, mtime=0), "shard_damaged", "gzip"),
        (jpeg() * 5, "shard_damaged", "is no tar"),
    ],
)
def test_file_that_is_no_tar_is_one_sample_with_a_reason(
    tmp_path: Path, content: bytes, reason: str, detail: str
) -> None:
    tar = tmp_path / "00000.tar"
    tar.write_bytes(content)
    (found,) = read_shard(tar)
    assert (found.key, reasons([found])) == ("00000.tar", [reason])
    assert found.problem is not None
    assert detail in found.problem.detail


def test_gzipped_tar_is_told_to_be_unpacked(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "00000.tar", sample("0"))
    tar.write_bytes(gzip.compress(tar.read_bytes(), mtime=0))
    (found,) = read_shard(tar)
    assert found.problem is not None
    assert found.problem.detail == "is compressed with gzip: unpack it first"


def test_tar_without_samples_has_none(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def test_damaged_header_in_the_middle_is_reported_and_never_the_silent_end(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "00000.tar", [*sample("0"), *sample("1")])
    content = bytearray(tar.read_bytes())
    content[content.index(b"1.jpg")] ^= 0x40
    tar.write_bytes(content)
    samples = list(read_shard(tar))
    assert reasons(samples) == [None, "shard_damaged"]


def test_keys_come_twice_as_samples_of_their_own(tmp_path: Path) -> None:
    samples = read(tmp_path, *sample("0"), *sample("0", 1), *sample("1"), *sample("0", 2))
    assert [s.key for s in samples] == ["0", "0", "1", "0"]
    assert len({s.image_sha256 for s in samples}) == 3
    assert [s.index for s in samples] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = [part for n in range(4) for part in sample(f"{n}", n, f"the text of {n}")]
    return tar_of(tmp_path_factory.mktemp("whole") / "00000.tar", parts, format=tarfile.PAX_FORMAT)


def assert_nothing_wrong_passes(samples: list[Sample], whole: Path) -> None:
    """Every image and text that comes out as good is one that went in, under its own key."""
    right = {s.key: (s.image_sha256, s.text) for s in read_shard(whole)}
    for found in samples:
        if found.problem is None:
            assert found.image_sha256 == right[found.key][0]
            assert found.text == right[found.key][1] or found.text_problem is not None


def test_tar_cut_anywhere_is_reported_and_gives_no_wrong_sample(
    tmp_path: Path, whole: Path
) -> None:
    content = whole.read_bytes()
    end = content.rindex(b"the text of 3") + 512
    tar = tmp_path / "00000.tar"
    for length in [*range(0, end, 97), *range(0, end, 512)]:
        tar.write_bytes(content[:length])
        samples = list(read_shard(tar))
        assert reasons(samples)[-1] == "shard_truncated", length
        assert_nothing_wrong_passes(samples, whole)


def test_random_damage_never_raises(tmp_path: Path, whole: Path) -> None:
    """A flipped bit within an image cannot be seen, but every flip in a header can."""
    content = whole.read_bytes()
    tar = tmp_path / "00000.tar"
    for seed in range(400):
        rng = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 5, 50))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        tar.write_bytes(damaged)
        for found in read_shard(tar):
            assert found.key.isprintable()
            assert found.problem is not None or found.header is not None


def test_damage_in_any_header_gives_no_sample_under_a_wrong_name(
    tmp_path: Path, whole: Path
) -> None:
    content = whole.read_bytes()
    with tarfile.open(whole) as opened:
        headers = [member.offset for member in opened]
    right = {s.key for s in read_shard(whole)}
    tar = tmp_path / "00000.tar"
    rng = random.Random(0)
    for offset in headers:
        for _ in range(40):
            damaged = bytearray(content)
            damaged[offset + rng.randrange(500)] ^= 1 << rng.randrange(8)
            tar.write_bytes(damaged)
            samples = list(read_shard(tar))
            assert set(good(samples)) <= right
            assert_nothing_wrong_passes(samples, whole)
            if len(good(samples)) < len(right):
                assert any(reasons(samples))


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    tar = tmp_path / "00000.tar"
    for seed in range(100):
        tar.write_bytes(random.Random(seed).randbytes(3000))
        assert reasons(read_shard(tar)) == ["shard_damaged"]


def test_one_bad_shard_does_not_keep_the_next_from_being_read(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"rubbish" * 1000)
    tar_of(tmp_path / "00001.tar", sample("0"))
    assert reasons(read_corpus(tmp_path)) == ["shard_damaged", None]


def test_every_problem_and_key_can_stand_in_a_table(tmp_path: Path) -> None:
    import pyarrow as pa

    samples = [
        *with_pax(tmp_path, pax({"path": b"caf\xe9\x00\n.jpg"})),
        *with_pax(tmp_path, pax({"path": b"../\xff\xfe.jpg"})),
        *read(tmp_path, ("0.jpg", io.BytesIO(b"\xff\xd8\xff\x00").read())),
    ]
    table = pa.table({"key": [s.key for s in samples], "told": [str(s.problem) for s in samples]})
    assert table.num_rows == len(samples)
    assert all(s.problem is None or s.problem.detail.isprintable() for s in samples)


def test_the_identity_of_an_image_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    found = read(tmp_path, *sample("0"))[0]
    assert found.image_sha256 == sha256(jpeg()).hexdigest()

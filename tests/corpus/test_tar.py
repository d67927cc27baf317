"""Our reader of headers against tarfile."""

import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strangers import special, tar_of

from vila2data.corpus.tar import members_of

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_finds(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]], format: int
) -> None:
    tar = tar_of(tmp_path_factory.mktemp("tar") / "x.tar", members, format=format)
    with tarfile.open(tar) as opened:
        theirs = [(m.name, m.offset_data, m.size) for m in opened]
    with tar.open("rb") as file:
        ours = [(m.name, m.start, m.size) for m in members_of(file)]
        assert ours == theirs
        for (_, content), (_, start, size) in zip(members, ours, strict=True):
            file.seek(start)
            assert file.read(size) == content


def test_special_members_are_faulty_and_folders_left_out(tmp_path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
    tar = tar_of(tmp_path / "x.tar", [special(f"{n}", kind) for n, kind in enumerate(kinds)])
    with tar.open("rb") as file:
        found = [(m.name, m.fault) for m in members_of(file)]
    assert found == [("0", "is a link or a device"), ("2", "is a link or a device")]

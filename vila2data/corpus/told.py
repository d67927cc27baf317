"""What the shards of a corpus tell of themselves, in the statistics beside them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from vila2data.storage import Place, RemotePath, read_each


def samples_told(shards: Sequence[Place]) -> Iterator[int | None]:
    """Samples of each shard by its own statistics, None where it has none."""
    remote = [shard for shard in shards if isinstance(shard, RemotePath)]
    if remote:
        yield from _told_remotely(remote)
        return
    for shard in shards:
        content = None
        with suppress(OSError):
            (content,) = read_each([_beside(shard)])
        yield _successes(content)


def _told_remotely(shards: Sequence[RemotePath]) -> Iterator[int | None]:
    """By one listing, and many requests at a time."""
    listed = {file.name: file for file in shards[0].parent.glob("*_stats.json")}
    files = [listed.get(_beside(shard).name) for shard in shards]
    contents = read_each([file for file in files if file is not None])
    for file in files:
        yield None if file is None else _successes(next(contents))


def _beside(shard: Place) -> Place:
    return shard.with_name(f"{shard.stem}_stats.json")


def _successes(content: bytes | None) -> int | None:
    try:
        return None if content is None else int(json.loads(content)["successes"])
    except (ValueError, KeyError, TypeError):
        return None

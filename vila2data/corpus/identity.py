"""What a manifest says of a corpus."""

from collections.abc import Sequence
from typing import Any

from vila2data.runfolder import fingerprint_of
from vila2data.storage import Place, size_of

from .read import list_shards


def corpus_source(corpus: Place, shards: Sequence[Place] | None = None) -> dict[str, Any]:
    """Name, number of shards, bytes, and a fingerprint of the shards' names and sizes.

    Raises:
        CorpusError: the folder is no corpus.
    """
    sizes = {shard.name: size_of(shard) for shard in shards or list_shards(corpus)}
    listed = "\n".join(f"{name} {size}" for name, size in sizes.items())
    return {
        "corpus": corpus.name,
        "shards": len(sizes),
        "bytes": sum(sizes.values()),
        "fingerprint": fingerprint_of({"shards": listed}),
    }

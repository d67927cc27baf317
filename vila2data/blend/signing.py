"""What conversations are compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vila2data.corpus.images import ImageLimits
from vila2data.overlap.signature import SIGNATURES, ImageSignature, image_signature
from vila2data.overlap.text import text_keys

_LIMITS = ImageLimits()


@dataclass(frozen=True)
class Signing:
    """What is computed.

    Attributes:
        near: perceptual hashes too, not the images' bytes alone.
        views: hashes of crops too.
    """

    near: bool
    views: bool


@dataclass
class Signer:
    """Signatures of the conversations of a shard; their ids are ``SHARD:CONVERSATION``."""

    signing: Signing
    shard: int
    source: str
    _images: dict[str, ImageSignature] = field(default_factory=dict)
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, key: str, content: bytes) -> None:
        """Notes an image that can be used.

        Raises:
            ImageRefused: its pixels are damaged.
        """
        near, views = self.signing.near, self.signing.views
        self._images[key] = image_signature(content, _LIMITS, near=near, views=views)

    def add(
        self, number: int, images: Sequence[str], turns: Sequence[Sequence[Mapping[str, str]]]
    ) -> None:
        """Notes a conversation.

        Args:
            number: in the shard.
            images: their keys.
            turns: messages of each of its rows.
        """
        keys = text_keys([message for row in turns for message in row])
        texts = {"text_keys": keys.exchanges, "question_keys": keys.questions}
        told = {"id": f"{self.shard}:{number}", "source": self.source}
        if not images:
            self._rows.append(told | texts)
        for place, key in enumerate(images):
            signed = self._images[key]
            self._rows.append(
                told
                | {"image": place, "sha256": signed.sha256, "phash": signed.phash}
                | {"views": signed.views}
                | (texts if place == 0 else {})
            )

    def table(self) -> pa.Table:
        """All of them."""
        return pa.Table.from_pylist(self._rows, SIGNATURES)

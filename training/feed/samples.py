"""From rows to the samples of a plan."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vila2data.corpus.images import ImageRefused, Problem, read_header

from .encode import Encoded, Encoder
from .images import ImageStore, Place
from .pictures import PictureProcessor
from .rows import Row
from .spec import FeedSpec, Form

SAMPLE = pa.schema(
    {
        "source": pa.int32(),
        "key": pa.string(),
        "input_ids": pa.list_(pa.int32()),  # each image still one token
        "trained": pa.list_(pa.int32()),  # start and end of each run of trained tokens
        "places": pa.list_(pa.int64()),  # shard, start and size of each image
        "hashes": pa.list_(pa.string()),
        "image_tokens": pa.list_(pa.int32()),  # how many tokens stand for each image
        "length": pa.int32(),  # tokens, those of the images among them
    }
)


class Sampler:
    """Makes samples for one model's processor."""

    def __init__(self, spec: FeedSpec, processor: Any) -> None:
        """Checks the chat template, where a source needs one.

        Raises:
            BadInput: it, or the tokenizer, cannot be trained with.
        """
        self._spec = spec
        self._encoder = Encoder(processor)
        self._pictures = PictureProcessor(processor)
        if any(source.form == "chat" and source.documents is None for source in spec.sources):
            self._encoder.check_template()

    def samples(
        self, source: int, form: Form, rows: Sequence[Row], store: ImageStore
    ) -> Iterator[tuple[Row, dict[str, Any] | str]]:
        """Each row with its sample, or with the reason why it is none; in any order.

        Args:
            source: position in the feed.
            form: of its texts.
            rows: of that source.
            store: of their images.
        """
        usable = []
        for row in map(self._with_found_images, rows):
            problem = row.problem or ("image_missing" if None in row.images else None)
            if problem is None:
                usable.append(row)
            else:
                yield row, problem
        for row, encoded in zip(usable, self._encoder.encode(usable, form), strict=True):
            if isinstance(encoded, str):
                yield row, encoded
            else:
                yield row, self._sized(source, row, encoded, store)

    def _with_found_images(self, row: Row) -> Row:
        """A document without those of its images that are missing, where that is the policy; one
        that has none left is missing its images.
        """
        missing = None in row.images
        if not (missing and row.passages and self._spec.missing_image == "skip"):
            return row
        images = iter(row.images)
        passages = []
        for passage in row.passages:
            held = [next(images) for _ in range(passage.images)]
            found = [place for place in held if place is not None]
            passages.append(replace(passage, images=len(found)))
        kept = [place for place in row.images if place is not None]
        return replace(row, images=kept, passages=passages) if kept else row

    def _sized(
        self, source: int, row: Row, encoded: Encoded, store: ImageStore
    ) -> dict[str, Any] | str:
        places = [place for place in row.images if place is not None]
        try:
            counts = [self._image_tokens(place, store) for place in places]
        except ImageRefused as refused:
            return refused.problem.reason
        length = len(encoded.input_ids) + sum(counts) - len(counts)
        if length > self._spec.context_tokens:
            return "too_long"
        return {
            "source": source,
            "key": row.key,
            "input_ids": encoded.input_ids,
            "trained": _runs(encoded.trained),
            "places": [n for p in places for n in (p.shard, p.start, p.size)],
            "hashes": [p.sha256 for p in places],
            "image_tokens": counts,
            "length": length,
        }

    def _image_tokens(self, place: Place, store: ImageStore) -> int:
        """How many tokens stand for an image; where that depends on its size and the row does not
        tell it, the image's header does.
        """
        if not self._pictures.counts_by_size and not (place.width and place.height):
            return len(self._pictures.tokens_of(1, 1))
        if place.width and place.height:
            if place.width * place.height > self._spec.max_image_pixels:
                raise ImageRefused(Problem("image_too_many_pixels"))
            return len(self._pictures.tokens_of(place.width, place.height))
        header = read_header(store.read(place), self._spec.limits())
        return len(self._pictures.tokens_of(header.width, header.height))


def _runs(trained: npt.NDArray[np.bool_]) -> list[int]:
    """Start and end of each run of trained tokens, one after the other."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], trained, [False]]).astype(np.int8)))
    return [int(edge) for edge in edges]

"""Image-text shards: WebDataset tars in img2dataset's layout."""

from .attach import attach_images
from .images import ImageLimits, ImageRefused, Problem
from .read import ReadLimits, Sample, list_shards, read_corpus, read_shard

__all__ = [
    "ImageLimits",
    "ImageRefused",
    "Problem",
    "ReadLimits",
    "Sample",
    "attach_images",
    "list_shards",
    "read_corpus",
    "read_shard",
]

"""Corpora and runs on any storage that fsspec reaches, by the calls that they use of paths."""

from .lease import Lease, is_held, leased, newest_number
from .place import Place, readable, size_of, stamp_of
from .remote import RemotePath, place_of
from .several import download, read_each, tails

__all__ = [
    "Lease",
    "Place",
    "RemotePath",
    "download",
    "is_held",
    "leased",
    "newest_number",
    "place_of",
    "read_each",
    "readable",
    "size_of",
    "stamp_of",
    "tails",
]

"""The cache: one HDF5 file of features and logits per recipe and backbone seed."""

from trustq.store.exchange import import_npz
from trustq.store.format import EXPOSURES, Cache
from trustq.store.listing import find_caches, open_cache
from trustq.store.read import (
    read_attributes,
    read_cache,
    require_same_manifest,
    verify_cache,
)
from trustq.store.write import CacheWriter, write_cache, writing_cache

__all__ = [
    "EXPOSURES",
    "Cache",
    "CacheWriter",
    "find_caches",
    "import_npz",
    "open_cache",
    "read_attributes",
    "read_cache",
    "require_same_manifest",
    "verify_cache",
    "write_cache",
    "writing_cache",
]

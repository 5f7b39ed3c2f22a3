"""The cache: one HDF5 file of features and logits per recipe and backbone seed."""

from trustq.store.class_order import in_first_order, in_order_of, moved_to
from trustq.store.exchange import crossfit_signs, import_cache
from trustq.store.export import export_cache
from trustq.store.format import EXPOSURES, Cache
from trustq.store.listing import find_caches, is_cache, is_foreign, open_cache
from trustq.store.mapped import give_back
from trustq.store.read import (
    read_attributes,
    read_cache,
    require_same_manifest,
    verify_cache,
)
from trustq.store.relabel import Relabelled, relabel_cache
from trustq.store.write import CacheWriter, write_cache, writing_cache

__all__ = [
    "EXPOSURES",
    "Cache",
    "CacheWriter",
    "Relabelled",
    "crossfit_signs",
    "export_cache",
    "find_caches",
    "give_back",
    "import_cache",
    "in_first_order",
    "in_order_of",
    "is_cache",
    "is_foreign",
    "moved_to",
    "open_cache",
    "read_attributes",
    "read_cache",
    "relabel_cache",
    "require_same_manifest",
    "verify_cache",
    "write_cache",
    "writing_cache",
]

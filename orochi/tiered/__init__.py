"""Tiers of chunks: moving them between local disk, object store and archive, by hand and by policy."""

"""Sharding: which shard a row belongs to, where shards live, and what a shard's relation looks like."""

from __future__ import annotations

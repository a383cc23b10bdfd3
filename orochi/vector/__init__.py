"""Vectors: pgvector's type read from the carrier form, and its distances over whole columns."""

"""Tiers of chunks by age, and moving between them."""

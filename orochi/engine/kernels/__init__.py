"""Compiled loops, at module level so that numba's cache holds them between processes."""

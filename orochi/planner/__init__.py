"""From a statement and a catalog snapshot to a plan: pure functions, no I/O.

A statement is parsed by PostgreSQL's own grammar (pglast). Whole statements are rewritten in their
own text, token by token, so that what was not meant to change cannot; only pieces that must be
composed anew are printed from the tree, and each print is parsed again and compared.
"""

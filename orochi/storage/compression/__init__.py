"""Codecs of column chunks, one a file; `chooser` picks one by sampling.

Every codec maps a dense (null-free) carrier array to bytes and back, bit for bit. Codec ids are
part of the stripe format: they are never reused (`registry`).
"""

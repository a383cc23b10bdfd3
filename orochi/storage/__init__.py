"""Where rows rest outside the heap: immutable stripe files and the codecs that shrink them."""

"""Stripe files: format, writer, reader, skip list, exact filters and the cache of decoded columns."""

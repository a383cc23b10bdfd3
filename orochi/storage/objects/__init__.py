"""The object store: a client that retries, a cache of parts on local disk, and stripes read through both."""

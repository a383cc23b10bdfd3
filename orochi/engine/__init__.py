"""What a worker runs: rows of heap and stripes, as Arrow in carrier form, through PostgreSQL or DuckDB.

Nothing here reads the catalog or knows of queues; a fragment carries all it needs.
"""

"""Orochi: an HTAP database behind the PostgreSQL protocol, on plain PostgreSQL servers, run by a Celery fleet.

The life of a statement, and where each step is:

1. `orochi.gateway` takes the client's bytes and relays what names no Orochi table.
2. `orochi.planner` parses, prunes shards and chunks, and decides a strategy; it does no I/O.
3. `orochi.operations` runs the plan, one module a kind of statement.
4. `orochi.executor` sends fragments to workers, keeps node connections, and commits.
5. `workers` hand each task to `orochi.engine`, which reads heaps and `orochi.storage` stripes.
6. `orochi.catalog` says what exists; `orochi.runtime` puts the parts together.
"""

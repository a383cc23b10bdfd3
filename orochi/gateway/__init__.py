"""The gateway: clients speak PostgreSQL's protocol to it, and it looks like PostgreSQL.

What needs nothing of Orochi is relayed byte for byte between the client and its own connection to
the coordinator (`relay`). Statements on Orochi tables are taken out of that stream: whole messages
are handled by a coroutine (`simple`, `extended`), or, for prepared single-shard statements, without
one (`hotpath`).
"""

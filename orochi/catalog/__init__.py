"""The catalog: what tables, shards, chunks and stripes exist, and the SQL surface in PostgreSQL.

`models` are its tables, `bootstrap` installs them, `api` lists the functions that the gateway
runs, and `store` reads everything into one immutable `snapshot`.
"""

from __future__ import annotations

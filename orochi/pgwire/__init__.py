"""The PostgreSQL wire protocol, version 3: framing, messages, SCRAM, and an asyncio client.

`codec`, `messages` and `scram` touch no socket; `client` is the only module here that does.
"""

"""The servers of `orochi up`: a whole cluster on loopback, started from PyPI wheels.

`cluster` decides what runs (ports, passwords, order); `postgres`, `valkey`, `objectstore` and
`fleet` describe one kind of process each; `supervisor` keeps processes running and ends them;
`state` is what is remembered on disk; `daemon` puts the whole thing in the background.
"""

from __future__ import annotations

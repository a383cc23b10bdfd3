"""A statement, or the part of it that writes, is begun again after a layout changed under it.

What the failed attempt did is undone: on nodes by a savepoint, or, where nothing else was written, by
rolling their parts back; in the catalog, what it entered of chunks that are no longer on the nodes.
"""

from __future__ import annotations

import dataclasses
from typing import Self

from orochi.executor import context

#: A lock that is new to the transaction has PostgreSQL hear of what others have committed. Who looked for a schema's new
#: name a moment too early would not find it for the rest of the transaction: that it is not there is remembered.
_HEAR = "SELECT FROM pg_catalog.pg_namespace WHERE false"


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Where an attempt began.

    Attributes:
        session: whose transaction it is.
        name: of the savepoint on nodes; None if the transaction had written nothing, or cannot go back.
        can_go_back: whether what others have changed since may be seen, and what was written before is kept.
        chunks: how many chunks the transaction had made before.
    """

    session: context.Session
    name: str | None
    can_go_back: bool
    chunks: int

    @classmethod
    async def here(cls, session: context.Session, name: str, *, may_move: bool = True) -> Self:
        """Mark the place, if something was written and layouts `may_move`."""
        transaction = session.transaction
        marked = transaction.wrote and not transaction.steady and may_move
        if marked:
            await transaction.savepoint(name)
        return cls(
            session, name if marked else None, marked or not transaction.wrote, len(transaction.chunks_made)
        )

    async def back(self) -> None:
        """Undo what was done since."""
        transaction = self.session.transaction
        undone = transaction.chunks_made[self.chunks :]
        if self.name is not None:
            await transaction.rollback_to(self.name)
            for participant in transaction.participants.values():
                await participant.connection.query(_HEAR)
        else:
            await transaction.rollback()
        if undone:
            listed = ", ".join(map(str, undone))
            await self.session.catalog_execute(
                f"DELETE FROM orochi.orochi_chunks WHERE chunk_id IN ({listed})"
            )
            del transaction.chunks_made[self.chunks :]

    async def done(self) -> None:
        """The attempt succeeded."""
        if self.name is not None:
            await self.session.transaction.release(self.name)

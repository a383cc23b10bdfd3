"""What the gateway asks of whatever runs its statements: `orochi.operations.run`, seen from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orochi.executor import context
from orochi.gateway import portal
from orochi.pgwire import messages
from orochi.planner import parse


class Engine(Protocol):
    """See the module docstring."""

    def concerns(self, session: context.Session, statement: parse.Statement, *, ever: bool = False) -> bool:
        """Whether the statement reads or writes Orochi tables, or calls Orochi's API.

        Args:
            session: whose names count.
            statement: parsed.
            ever: or may come to, when other relations no longer hide them.
        """

    def of_lists(self, session: context.Session, text: str) -> parse.Statement | None:
        """The statement that stands for an INSERT of many rows of constants; None if the text is to be parsed."""

    async def execute(
        self,
        session: context.Session,
        statement: parse.Statement,
        parameters: context.Parameters | None,
        fields: tuple[messages.FieldDescription, ...] | None,
        sink: context.Sink,
    ) -> None:
        """Run one statement to its command tag."""

    def template(self, session: context.Session, prepared: portal.Prepared) -> portal.Template | None:
        """The generic single-shard plan of a prepared statement, or None."""

    def forget_rights(self) -> None:
        """What roles may do has changed: PostgreSQL is to be asked again."""

    async def renew_rights(self, session: context.Session, prepared: portal.Prepared) -> None:
        """Ask PostgreSQL again for the rights that `allowed` looks at, the coordinator being outside a transaction."""

    def allowed(
        self, session: context.Session, prepared: portal.Prepared, formats: Sequence[int] = ()
    ) -> bool:
        """Whether a node's answer in these formats may be the client's, its rights checked a moment ago."""

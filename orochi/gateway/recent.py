"""Statements that a session parsed a moment ago, to be parsed again without asking the coordinator.

Clients that prepare nothing send Parse with every execution. Its answer depends on the text, the
parameter types the client gives, the catalog, the search path and the role; as long as these are
the same, and for a moment only (rights on schemas are checked there), the last answer holds. A
statement whose parameters or columns have a type of a user's own is not kept.

Texts of the simple protocol that differ in literals only are one such statement, with parameters. Times are among
these literals in INSERTs, where nothing is planned by them, if they say a moment by themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from orochi import errors, pgtypes
from orochi.gateway import portal
from orochi.gateway import texts as texts_module
from orochi.pgwire import messages
from orochi.planner import lift, parse
from orochi.sharding import values

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

#: What the client sent in Parse, or what lies around the literals of a text and the types of these.
_Key: TypeAlias = bytes | tuple[tuple[bytes, ...], tuple[int, ...]]

#: As long as rights once seen are remembered: see `operations.privileges`.
SECONDS = 3.0
_MOST = 256
_LONGEST = 8_192


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    prepared: portal.Prepared | None
    until: float
    meaning: tuple[object, ...]
    user: str


class Recent:
    """The statements of one session, by what the client sent."""

    def __init__(self, session: sessions.Session) -> None:
        self._session = session
        self._kept: OrderedDict[_Key, _Entry] = OrderedDict()
        self._seen: set[_Key] = set()

    def clear(self) -> None:
        """Settings, the role or the catalog changed in this session."""
        self._kept.clear()
        self._session.relay.lifts = False

    def add(self, sent: bytes, prepared: portal.Prepared) -> None:
        """The coordinator has just described a statement of the extended protocol."""
        if len(sent) <= _LONGEST:
            self._keep(sent, prepared)

    def find(self, sent: _Key) -> portal.Prepared | None:
        """What the coordinator would say again; None if it must be asked."""
        entry = self._valid(sent)
        return None if entry is None else entry.prepared

    def again(self, sent: bytes) -> portal.Prepared | None:
        """Like `find`, in the middle of a batch."""
        relay = self._session.relay
        if relay.settings_dirty or relay.catalog_dirty or self._session.coordinator.status == "E":
            return None
        return self.find(sent)

    def find_lifted(self, lifted: lift.Lifted) -> portal.Prepared | None:
        """The statement that is this one of the simple protocol without its literals, if known."""
        prepared = self.find((lifted.rest, lifted.type_oids))
        if prepared is None or prepared.statement.kind is not parse.Kind.INSERT:
            return prepared
        zone = values.timezone(self._session.zone)
        for oid, value in zip(prepared.type_oids, lifted.values, strict=True):
            if oid in pgtypes.TIMES and values.from_wire(oid, value, 0, zone) is None:
                return None  # as a parameter `yesterday` is another moment, and what is wrong is so in other words
        return prepared

    async def learn(self, sql: bytes, fields: tuple[messages.FieldDescription, ...] | None) -> None:
        """See whether a text of ours, with these columns, and those like it can be had as one statement.

        The coordinator is outside a transaction and ours. It is asked on a text's second time only.
        """
        session = self._session
        lifted = lift.split(sql)
        if lifted is None or session.relay.texts.flags(sql) != texts_module.TOUCHES:
            return
        key = (lifted.rest, lifted.type_oids)
        if key not in self._seen:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen.add(key)
            return
        if self._valid(key) is not None:
            return
        self._keep(key, await self._described(sql, lifted, fields))

    async def _described(
        self, sql: bytes, lifted: lift.Lifted, fields: tuple[messages.FieldDescription, ...] | None
    ) -> portal.Prepared | None:
        statement = lift.template(sql, lifted)
        if statement is None:
            return None
        try:
            oids, columns = await self._session.coordinator.describe(lifted.sql.decode(), lifted.type_oids)
        except errors.RemoteError:
            return None
        strings = lift.TEXT_TYPES | (pgtypes.TIMES if statement.kind is parse.Kind.INSERT else frozenset())
        alike = all(
            inferred == given if given else inferred in strings
            for inferred, given in zip(oids, lifted.type_oids, strict=True)
        )
        if not alike or columns != fields:
            return None
        prepared = portal.Prepared(b"", lifted.sql, statement)
        prepared.describe(oids, columns, self._session.meaning())
        self._session.relay.lifts = True
        return prepared

    async def renew(self, prepared: portal.Prepared) -> None:
        """Ask the coordinator again about a statement found here, before its answer is too old to be used.

        The coordinator is outside a transaction and ours.
        """
        known = [key for key, entry in self._kept.items() if entry.prepared is prepared]
        for key in known:
            if self._valid(key) is None:
                continue
            meaning = self._session.meaning()
            given = messages.parse_parse(key).type_oids if isinstance(key, bytes) else key[1]
            del self._kept[key]
            with contextlib.suppress(errors.RemoteError):
                found = await self._session.coordinator.describe(prepared.server_sql.decode(), given)
                if found == (prepared.type_oids, prepared.fields) and self._session.meaning() == meaning:
                    self._keep(key, prepared)

    def _keep(self, key: _Key, prepared: portal.Prepared | None) -> None:
        session = self._session
        if prepared is not None:
            oids = (*prepared.type_oids, *(field.type_oid for field in prepared.fields or ()))
            if any(oid >= pgtypes.FIRST_NORMAL_OID for oid in oids):
                prepared = None
        self._kept[key] = _Entry(prepared, time.monotonic() + SECONDS, session.meaning(), session.user)
        self._kept.move_to_end(key)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def _valid(self, key: _Key) -> _Entry | None:
        entry = self._kept.get(key)
        if entry is None:
            return None
        session = self._session
        is_same = entry.meaning == session.meaning() and entry.user == session.user
        if entry.until < time.monotonic() or not is_same:
            del self._kept[key]
            return None
        return entry

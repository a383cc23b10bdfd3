"""Prepared single-shard statements, from the client's Bind to its ReadyForQuery, without a coroutine.

A batch of exactly Bind, maybe Describe, Execute and Sync, outside a transaction, of a statement with
a generic plan: the shard is computed, a pooled node connection runs its own prepared statement, and
the node's bytes go to the client as they are, with the coordinator's RowDescription. Whatever does
not fit takes the long way, as does a statement whose shard was moved under it: nothing was sent yet.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orochi import errors, metrics, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import node_errors
from orochi.gateway import encodings, portal, renewal
from orochi.pgwire import client as pg_client
from orochi.pgwire import codec, messages
from orochi.planner import insert, lift, parse
from orochi.planner import plan as plans
from orochi.sharding import hashing

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

_length_at = codec.length_at
_STALE = re.compile(r"\borochi_[sc]\d")
_MOST_TARGETS = 4096
_END = messages.EXECUTE_ALL + messages.SYNC
_DESCRIBED_END = messages.DESCRIBE_PORTAL + _END


def target(session: sessions.Session, held: portal.Portal, *, alone: bool = False) -> portal.Target | None:
    """Where this execution, maybe a transaction by itself (`alone`), goes by the generic plan; None if it must be planned."""
    prepared = held.prepared
    snapshot = session.snapshot()
    if _is_of(prepared, snapshot):
        prepared.snapshot = snapshot
    if (
        prepared.snapshot is not snapshot
        or prepared.search_path != session.search_path
        or prepared.temp_tables != session.temp_tables
    ):
        prepared.template = session.engine.template(session, prepared)
        prepared.snapshot = snapshot
        prepared.search_path = session.search_path
        prepared.temp_tables = session.temp_tables
        prepared.targets.clear()
    template = prepared.template
    if template is None or session.settings.get("orochi.force_strategy"):
        return None
    if session.read_only and not isinstance(template, plans.Router):
        return None  # the long way refuses it
    if session.loop is not None and not isinstance(template, insert.Template):
        return None  # the long way looks at its conditions: see loopback.check
    if not session.engine.allowed(session, prepared, held.result_formats):
        return None  # the long way asks PostgreSQL
    parameters = held.parameters
    if not encodings.readable(parameters, session.coordinator.parameters.get("client_encoding", "")):
        return None  # the long way refuses it
    if isinstance(template, insert.Template):
        chosen = insert.choose(
            template,
            snapshot,
            parameters.values,
            parameters.formats,
            session.zone,
            alone=alone and session.loop is None,
        )
        if chosen is None:
            return None
        shard, schema = chosen
        return _known(prepared, schema, (shard,), template.sql, schema)
    hashed = _hash(template.key, held, session)
    if hashed is None:
        return None
    shards = _shards(template, snapshot, hashed)
    return _known(prepared, shards[0].shard_id, shards, template.sql)


def _is_of(prepared: portal.Prepared, snapshot: snapshots.Snapshot) -> bool:
    """Whether the template of an INSERT holds in the snapshot too: where its row goes is looked up each time."""
    former = prepared.snapshot
    return (
        former is not None
        and former.shape is snapshot.shape
        and isinstance(prepared.template, insert.Template)
    )


def _known(
    prepared: portal.Prepared, key: object, shards: tuple[snapshots.Shard, ...], sql: str, schema: str = ""
) -> portal.Target | None:
    targets = prepared.targets
    if key in targets:
        return targets[key]
    template = prepared.template
    found: portal.Target | None = None
    reads_stripes = not isinstance(template, insert.Template) and any(shard.has_stripes for shard in shards)
    replicated = not isinstance(template, plans.Router) and len(shards[0].node_ids) > 1
    if not reads_stripes and not replicated:
        filled = sql.replace(insert.SHARD, schema) if schema else plans.fill(sql, shards)
        # OIDs of a user's own types differ from server to server; 0 lets the node infer them
        oids = tuple(oid if oid < pgtypes.FIRST_NORMAL_OID else 0 for oid in prepared.type_oids)
        home = min(shards, key=lambda shard: len(shard.node_ids))
        found = portal.Target(home.node_id, filled, (filled, oids, portal.shape(prepared.fields)))
    if len(targets) >= _MOST_TARGETS:
        targets.clear()
    targets[key] = found
    return found


def _hash(key: plans.Key | None, held: portal.Portal, session: sessions.Session) -> int | None:
    match key:
        case plans.ParamKey(number=number, type_oid=type_oid):
            parameters = held.parameters
            return hashing.hash_wire(
                type_oid, parameters.values[number - 1], parameters.formats[number - 1], session.zone
            )
        case plans.HashKey(value=value):
            return value
        case plans.AnyKey():
            return 0
        case _:
            return None


def _shards(
    template: plans.Router | plans.Modify, snapshot: snapshots.Snapshot, hashed: int
) -> tuple[snapshots.Shard, ...]:
    return tuple(snapshot.tables[oid].shard_for_hash(hashed) for oid in template.tables)


def start(session: sessions.Session, data: bytes, pos: int) -> int:
    """Start on the Query, or the batch whose Bind, or Parse before it, is at `pos`; its end, or 0."""
    end = _start(session, data, pos)
    if end:
        metrics.KEPT_PLANS.inc()
    return end


def _start(session: sessions.Session, data: bytes, pos: int) -> int:
    if session.coordinator.status != "I" or session.relay.settings_dirty or session.client.closed:
        return 0
    if data[pos] == 0x51:
        return _start_query(session, data, pos)
    at, parsed, again = pos, b"", None
    if data[pos] == 0x50:  # P: Parse of the unnamed statement, its answer still known
        at = pos + 1 + _length_at(data, pos + 1)[0]
        again = session.recent.find(data[pos + 5 : at])
        if again is None or len(data) < at + 5 or data[at] != 0x42:
            return 0
        parsed = messages.PARSE_COMPLETE
    bind_end: int = at + 1 + _length_at(data, at + 1)[0]
    if data.startswith(_DESCRIBED_END, bind_end):
        described, end = True, bind_end + len(_DESCRIBED_END)
    elif data.startswith(_END, bind_end):
        described, end = False, bind_end + len(_END)
    else:
        return 0
    try:
        bind = messages.parse_bind(data[at + 5 : bind_end])
        prepared = session.relay.ours.get(bind.statement) if again is None or bind.statement else again
        if prepared is not None and prepared.described_in != session.meaning():
            return 0  # the long way has it described anew
        if prepared is None or not prepared.described or bind.portal:
            return 0
        prepared.check(bind)
    except errors.OrochiError:
        return 0  # the long way says what is wrong
    held = portal.Portal(prepared, bind)
    found = target(session, held, alone=True)
    if found is None:
        return 0
    connection = session.runtime.nodes.take(found.node_id, session.signature)
    if connection is None:
        return 0
    if again is not None:
        session.relay.ours[b""] = again
        session.relay.unnamed = b""
    head = parsed + messages.BIND_COMPLETE
    if described:
        head += prepared.description(bind.result_formats)
    session.hot = Call(session, connection, data[pos:end], (parsed, head, head), held, found)
    session.hot.send()
    return end


def _start_query(session: sessions.Session, data: bytes, pos: int) -> int:
    """A Query that is a known statement but for its literals: they become its parameters."""
    end: int = pos + 1 + _length_at(data, pos + 1)[0]
    sql = data[pos + 5 : end - 1]
    encoding = session.coordinator.parameters.get("client_encoding")
    if not sql.isascii() and encoding != "UTF8":
        return 0
    lifted = lift.split(sql)
    prepared = None if lifted is None else session.recent.find_lifted(lifted)
    if prepared is None or lifted is None or b"\0" in sql:
        return 0
    held = portal.Portal(prepared, messages.Bind(b"", b"", (), lifted.values, ()))
    found = target(session, held, alone=True)
    if found is None:
        return 0
    connection = session.runtime.nodes.take(found.node_id, session.signature)
    if connection is None:
        return 0
    session.relay.ours.pop(b"", None)
    head = b"" if prepared.fields is None else prepared.description(())
    # PostgreSQL announces a SELECT's columns before its first row, any other's when it is done
    begun = head if prepared.statement.kind is parse.Kind.SELECT else b""
    session.hot = Call(session, connection, data[pos:end], (b"", begun, head), held, found)
    session.hot.send()
    return end


class Call:
    """One execution under way.

    Attributes:
        connection: the node's, leased for this.
    """

    __slots__ = (
        "_batch",
        "_begun",
        "_fragment",
        "_head",
        "_held",
        "_parsed",
        "_portal",
        "_session",
        "_skip",
        "_started",
        "_tag",
        "_target",
        "connection",
    )

    def __init__(
        self,
        session: sessions.Session,
        connection: pg_client.PgConnection,
        batch: bytes,
        heads: tuple[bytes, bytes, bytes],
        held: portal.Portal,
        found: portal.Target,
    ) -> None:
        self.connection = connection
        self._session = session
        self._batch = batch
        # what goes before an error of binding, before one of running, and before anything else
        self._parsed, self._begun, self._head = heads
        self._portal = held
        self._target = found
        self._held = b""
        self._started = False
        self._skip = 0
        self._fragment = self._tag = b""

    def send(self) -> None:
        """Send the node its part."""
        connection, found, bind = self.connection, self._target, self._portal.bind
        self._session.doing.begin(self._portal.prepared.sql, "", self._strategy)
        name, before = connection.prepare(found.key, found.sql, found.key[1])
        connection.tap = self._from_node
        connection.write(
            b"".join(
                (
                    before,
                    messages.bind(b"", name, bind.formats, bind.values, bind.result_formats),
                    _END,
                )
            )
        )

    def client_writable(self, writable: bool) -> None:
        """The client takes data again, or not."""
        if writable:
            self.connection.resume_reading()
        else:
            self.connection.pause_reading()

    def _from_node(self, data: bytes) -> None:
        if not data:
            self._lost()
            return
        if self._started:
            self._session.client.write(data)
            self._walk(data)
            return
        if self._held:
            data = self._held + data
        pos, size = 0, len(data)
        while size - pos >= 5 and data[pos] in b"123":  # ParseComplete, BindComplete, CloseComplete
            pos += 5
        if size - pos < 5:
            self._held = data
            return
        if data[pos] == 0x45:  # E: ErrorResponse, and ReadyForQuery after it
            if size - pos < 7 + _length_at(data, pos + 1)[0]:
                self._held = data
                return
            self._refused(data, pos)
            return
        self._started = True
        rest = data[pos:]
        self._session.client.write(self._head + rest)
        self._walk(rest)

    def _walk(self, data: bytes) -> None:
        """Look for the ReadyForQuery that ends the answer."""
        if self._fragment:
            data = self._fragment + data
            self._fragment = b""
        pos, size = self._skip, len(data)
        while size - pos >= 5:
            end = pos + 1 + _length_at(data, pos + 1)[0]
            if data[pos] == 0x43:  # C: CommandComplete
                if end > size:
                    break
                self._tag = data[pos + 5 : end - 1]
            elif data[pos] == 0x5A:  # Z: ReadyForQuery
                if end > size:
                    break
                self.connection.status = chr(data[pos + 5])
                self._count()
                self._finish()
                return
            pos = end
        if pos >= size:
            self._skip = pos - size
        else:
            self._skip = 0
            self._fragment = data[pos:]

    def _refused(self, data: bytes, pos: int) -> None:
        end = pos + 1 + _length_at(data, pos + 1)[0]
        error = messages.parse_error(data[pos + 5 : end])
        # what PostgreSQL refuses to bind was not bound; what fails later was bound, and described
        head = self._begun if 0x32 in data[:pos:5] else self._parsed
        self.connection.forget(self._target.key)
        self.connection.status = "I"
        if data[end : end + 1] != b"Z":
            self.connection.abort()  # FATAL: no ReadyForQuery follows
            self._lost()
            return
        if needs_long_way(error, alone=True):
            self._release()
            self._long_way()
            return
        error.fields.pop("P", None)  # a position in the shard's SQL
        node_errors.for_client(error, self._session.snapshot(), self._session.search_path)
        self._session.client.write(head + messages.error_response(error) + messages.READY_IDLE)
        self._finish()

    def _lost(self) -> None:
        session = self._session
        error: errors.OrochiError
        if not self._started and isinstance(self._portal.prepared.template, plans.Router):
            self._release()
            self._long_way()
            return
        error = errors.TransactionOutcomeUnknown(
            f"the connection to node {self._target.node_id} broke while it ran the statement",
            detail="Whether the statement was committed is not known.",
        )
        if self._started:
            self._release()
            session.client.abort()  # in the middle of a message: the stream cannot be mended
            session.hot_ended()
            return
        session.client.write(messages.error_response(error) + messages.READY_IDLE)
        self._finish()

    def _long_way(self) -> None:
        session = self._session
        session.hot = None
        relay = session.relay
        waiting = relay.inbox.take()
        relay.inbox.feed(self._batch + waiting)
        session.start_unit(refresh=True)

    @property
    def _strategy(self) -> str:
        prepared = self._portal.prepared
        return "router" if isinstance(prepared.template, plans.Router) else prepared.statement.kind.value

    def _count(self) -> None:
        session, tag = self._session, self._tag
        if tag:  # else it ended with an error
            session.gateway.statistics.count(
                session, self._portal.prepared.sql, self._strategy, tag.decode("ascii", "replace")
            )

    def _release(self) -> None:
        self._session.doing.end()
        self.connection.tap = None
        self._session.runtime.nodes.release(self.connection)

    def _finish(self) -> None:
        self._release()
        session, prepared = self._session, self._portal.prepared
        if renewal.is_due(session, prepared):
            session.hot = None
            session.gateway.background(renewal.run(session, prepared))
        else:
            session.hot_ended()


def needs_long_way(error: errors.OrochiError, *, alone: bool = False) -> bool:
    """Whether a node refused because the plan's shard layout is gone, or a chunk is not there yet.

    Or because its own prepared statement has other columns since the table was altered. Or, where it was a transaction
    by itself (`alone`), it was chosen to end a deadlock: an INSERT that names a chunk takes locks in another order than DDL.
    """
    if error.sqlstate in ("3F000", "42P01", "42704"):
        return _STALE.search(error.message) is not None
    if alone and error.sqlstate == "40P01":
        return True  # nothing of it is left: it may run again
    if error.sqlstate == "0A000":
        return error.message == "cached plan must not change result type"
    return error.sqlstate == "23514" and error.message.startswith("no partition of relation")

"""Makes a PostgreSQL database a coordinator or a node; running it again changes nothing.

`migrate` brings the catalog to this version: tables by Alembic, then the functions, triggers and
views of `catalog/sql`, which are replaced whenever their text changed. Two processes that start
together wait for each other on an advisory lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator
from importlib import metadata

import psycopg
import sqlalchemy as sa
import structlog
from alembic import command, config, script
from psycopg import sql

from orochi.catalog import api, twophase

log = structlog.get_logger()

_FOLDER = pathlib.Path(__file__).parent
_SQL = _FOLDER / "sql"
#: What only a superuser may install; Orochi does without where there is none.
_PRIVILEGED = (
    "loopback.sql",  # without it functions that read shells find nothing, and their writes fail
    "event_triggers.sql",  # without them a dropped shell is found by the statistics task, a little later
    "login_trigger.sql",  # before PostgreSQL 17 a dump past the gateway is not refused
    "access_method.sql",
    "citus_views.sql",
    "members.sql",  # without them a dump holds Orochi's own schemas
)
#: Key of the advisory lock that one migration at a time holds.
_LOCK = 0x4F524F43


def migrate(dsn: str) -> None:
    """Install or upgrade the catalog in the coordinator database `dsn`.

    Raises:
        psycopg.Error: the server refused; nothing of the step that failed remains.
    """
    with psycopg.connect(dsn, autocommit=True) as connection, _exclusive(connection):
        connection.execute("CREATE SCHEMA IF NOT EXISTS orochi")
        settings = _alembic()
        if not _is_current(connection, settings):
            _upgrade_tables(dsn, settings)
        _install_sql(connection)
        _set_search_path(connection)


def prepare_node(dsn: str) -> None:
    """Give the database `dsn` what shards need: schemas, the delete vector, functions of fragments."""
    with psycopg.connect(dsn, autocommit=True) as connection, _exclusive(connection):
        with connection.transaction():
            _execute(connection, node_sql())
        _set_search_path(connection)


def register_node(dsn: str, node_dsn: str, *, holds_shards: bool = True) -> int:
    """Enter the database `node_dsn` into the catalog in `dsn`, or bring its entry up to date.

    A node is known by its server's identity, not by its address: one that moved to another port
    keeps its id and its shards. The coordinator's own DSN makes the coordinator a data node.

    Returns:
        The node's id.
    """
    with psycopg.connect(node_dsn, autocommit=True) as node:
        identity = _identity(node)
        host, port, dbname = node.info.host, node.info.port, node.info.dbname
    with psycopg.connect(dsn, autocommit=True) as connection, _exclusive(connection):
        role = "coordinator" if identity == _identity(connection) else "data"
        values = {"host": host, "port": port, "dbname": dbname, "role": role, "identity": identity}
        values["holds"] = holds_shards
        connection.execute(
            "UPDATE orochi.orochi_nodes SET last_heartbeat = now() WHERE identity = %(identity)s", values
        )
        connection.execute(
            "UPDATE orochi.orochi_nodes SET hostname = %(host)s, port = %(port)s, dbname = %(dbname)s,"
            " role = %(role)s, holds_shards = %(holds)s WHERE identity = %(identity)s"
            " AND (hostname, port, dbname, role, holds_shards) IS DISTINCT FROM"
            " (%(host)s, %(port)s, %(dbname)s, %(role)s, %(holds)s)",
            values,
        )
        row = connection.execute(
            "WITH added AS (INSERT INTO orochi.orochi_nodes"
            " (hostname, port, dbname, role, holds_shards, identity, last_heartbeat)"
            " SELECT %(host)s, %(port)s, %(dbname)s, %(role)s, %(holds)s, %(identity)s, now()"
            " WHERE NOT EXISTS (SELECT FROM orochi.orochi_nodes WHERE identity = %(identity)s)"
            " RETURNING node_id)"
            " SELECT node_id FROM added UNION ALL"
            " SELECT node_id FROM orochi.orochi_nodes WHERE identity = %(identity)s",
            values,
        ).fetchone()
        assert row is not None
        return int(row[0])


def _identity(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    row = connection.execute(twophase.CLUSTER_ID_SQL).fetchone()
    assert row is not None
    return str(row[0])


def node_sql() -> str:
    """The SQL that makes a database a node; safe to run again."""
    return "\n".join(path.read_text() for path in sorted(_SQL.glob("node_*.sql")))


@contextlib.contextmanager
def _exclusive(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _execute(connection: psycopg.Connection[tuple[object, ...]], text: str) -> None:
    connection.execute(text.encode())


def _alembic() -> config.Config:
    settings = config.Config()
    settings.set_main_option("script_location", str(_FOLDER / "migrations"))
    return settings


def _exists(connection: psycopg.Connection[tuple[object, ...]], relation: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,)).fetchone()
    return row is not None and bool(row[0])


def _is_current(connection: psycopg.Connection[tuple[object, ...]], settings: config.Config) -> bool:
    """Whether the tables are of this version already."""
    if not _exists(connection, "orochi.orochi_alembic_version"):
        return False
    rows = connection.execute("SELECT version_num FROM orochi.orochi_alembic_version").fetchall()
    return {str(row[0]) for row in rows} == set(script.ScriptDirectory.from_config(settings).get_heads())


def _release_all(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Let migrations drop and change what they find: the SQL that is installed after them makes the views again."""
    with connection.transaction():
        views = _release(connection)
        if views:
            _execute(connection, f"DROP VIEW {', '.join(views)}")
        if _exists(connection, "orochi.orochi_installed_sql"):
            connection.execute("DELETE FROM orochi.orochi_installed_sql")


def _upgrade_tables(dsn: str, settings: config.Config) -> None:
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        _release_all(raw)
        settings.attributes["connection"] = connection
        command.upgrade(settings, "heads")


def _coordinator_sql() -> str:
    version = _version()
    scripts = [node_sql()]
    for path in sorted(_SQL.glob("[0-9]*.sql")):
        if path.name.startswith("90_"):
            scripts.append(api.install_sql())  # before the grants, which cover everything
        scripts.append(path.read_text().replace("@VERSION@", version))
    return "\n".join(scripts)


def _version() -> str:
    try:
        return metadata.version("orochi")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "from source"


def _install_sql(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    text = _coordinator_sql()
    privileged = [(_SQL / name).read_text() for name in _PRIVILEGED]
    digest = hashlib.sha256("".join((text, *privileged)).encode()).hexdigest()
    row = connection.execute("SELECT digest FROM orochi.orochi_installed_sql").fetchone()
    if row is not None and row[0] == digest:
        return
    with connection.transaction():
        _release(connection)
        _execute(connection, "SET LOCAL check_function_bodies = off;" + text)
        for name, script in zip(_PRIVILEGED, privileged, strict=True):
            try:
                with connection.transaction():
                    _execute(connection, script)
            except psycopg.Error as error:
                log.warning("catalog.not_privileged", script=name, error=str(error))
        connection.execute(
            "INSERT INTO orochi.orochi_installed_sql (digest) VALUES (%s)"
            " ON CONFLICT (singleton) DO UPDATE SET digest = excluded.digest",
            (digest,),
        )


def _release(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    """Take out of the extension what `members.sql` put there: members cannot be dropped or made anew.

    Returns:
        The views among them.
    """
    rows = connection.execute(
        "SELECT (pg_identify_object(classid, objid, 0)).type, (pg_identify_object(classid, objid, 0)).identity"
        " FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass"
        " AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'plpgsql') AND objid >= 16384"
        # types of rows and arrays follow what they are made of
        " AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid"
        " WHERE classid = 'pg_type'::regclass AND t.oid = objid AND (t.typelem <> 0 OR c.relkind <> 'c'))"
    ).fetchall()
    for kind, name in rows:
        _execute(connection, f"ALTER EXTENSION plpgsql DROP {str(kind).replace('-', ' ')} {name}")
    return [str(name) for kind, name in rows if kind == "view"]


def _set_search_path(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Put schema `orochi_api` at the end of the database's search_path, keeping what is there.

    For a role that is itself called orochi, `"$user"` would be the catalog's schema, and its tables
    would be made there: for it alone, the path starts without `"$user"`.
    """
    row = connection.execute(
        "SELECT current_database(), (SELECT substr(item, 13) FROM pg_db_role_setting s,"
        " unnest(setconfig) AS item WHERE s.setdatabase = d.oid AND setrole = 0 AND item LIKE 'search_path=%'),"
        " EXISTS (SELECT FROM pg_roles WHERE rolname = 'orochi')"
        " FROM pg_database d WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    database, configured = sql.Identifier(str(row[0])), str(row[1] or '"$user", public')
    before = [part.strip() for part in configured.split(",")]
    parts = [part for part in before if part not in ("orochi", "orochi_api")] + ["orochi_api"]
    if parts != before:
        path = sql.SQL(", ".join(parts))
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}").format(database, path))
    if row[2]:
        path = sql.SQL(", ".join(part for part in parts if part != '"$user"'))
        connection.execute(
            sql.SQL("ALTER ROLE orochi IN DATABASE {} SET search_path = {}").format(database, path)
        )

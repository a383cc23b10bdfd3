-- What gateways tell of their sessions and of the statements that they ran, about once a second. Nothing is lost that
-- matters: a crash empties these tables, as it empties PostgreSQL's own statistics.

CREATE UNLOGGED TABLE IF NOT EXISTS orochi_data.session_activity (
    pid integer PRIMARY KEY,  -- of the session's backend on the coordinator
    backend_start timestamptz,  -- tells a later backend of that number apart
    gateway text NOT NULL,
    client_addr inet,
    client_port integer,
    is_active boolean NOT NULL,
    query_id text,
    query text,
    strategy text,
    query_start timestamptz,
    state_change timestamptz
);

CREATE UNLOGGED TABLE IF NOT EXISTS orochi_data.statement_counts (
    userid oid NOT NULL,
    queryid bigint NOT NULL,
    strategy text NOT NULL,
    query text NOT NULL,
    calls bigint NOT NULL,
    rows bigint NOT NULL,
    total double precision NOT NULL,  -- milliseconds, as all times here
    shortest double precision NOT NULL,
    longest double precision NOT NULL,
    squares double precision NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    last_call timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (userid, queryid, strategy)
);

CREATE OR REPLACE FUNCTION orochi._tell_sessions(gateway text, changed json, ended integer[]) RETURNS void
LANGUAGE sql SET search_path = '' SET synchronous_commit = off AS $$
    DELETE FROM orochi_data.session_activity s WHERE s.gateway = _tell_sessions.gateway AND s.pid = ANY (ended);
    INSERT INTO orochi_data.session_activity
        SELECT n.pid, a.backend_start, _tell_sessions.gateway, n.client_addr, n.client_port, n.is_active,
            n.query_id, n.query, n.strategy, to_timestamp(n.query_start), to_timestamp(n.state_change)
        FROM json_to_recordset(changed) AS n(pid integer, client_addr inet, client_port integer, is_active boolean,
            query_id text, query text, strategy text, query_start double precision, state_change double precision)
        LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = n.pid
        ORDER BY n.pid
        ON CONFLICT (pid) DO UPDATE SET backend_start = excluded.backend_start, gateway = excluded.gateway,
            client_addr = excluded.client_addr, client_port = excluded.client_port, is_active = excluded.is_active,
            query_id = excluded.query_id, query = excluded.query, strategy = excluded.strategy,
            query_start = excluded.query_start, state_change = excluded.state_change;
$$;

CREATE OR REPLACE FUNCTION orochi._tell_statements(counted json) RETURNS void
LANGUAGE sql SET search_path = '' SET synchronous_commit = off AS $$
    INSERT INTO orochi_data.statement_counts AS s
            (userid, queryid, strategy, query, calls, rows, total, shortest, longest, squares)
        SELECT r.oid, n.queryid, n.strategy, n.query, n.calls, n.rows, n.total, n.shortest, n.longest, n.squares
        FROM json_to_recordset(counted) AS n(username name, queryid bigint, strategy text, query text, calls bigint,
            rows bigint, total double precision, shortest double precision, longest double precision,
            squares double precision)
        JOIN pg_roles r ON r.rolname = n.username
        ORDER BY r.oid, n.queryid, n.strategy  -- gateways that count the same wait for each other in one order
        ON CONFLICT (userid, queryid, strategy) DO UPDATE SET calls = s.calls + excluded.calls,
            rows = s.rows + excluded.rows, total = s.total + excluded.total,
            shortest = least(s.shortest, excluded.shortest), longest = greatest(s.longest, excluded.longest),
            squares = s.squares + excluded.squares, last_call = now();
$$;

-- Keeps what is called most and latest, and forgets sessions of gateways that are gone.
CREATE OR REPLACE FUNCTION orochi._trim_statistics(kept integer) RETURNS void
LANGUAGE sql SET search_path = '' SET synchronous_commit = off AS $$
    DELETE FROM orochi_data.statement_counts s USING (
            SELECT c.userid, c.queryid, c.strategy FROM orochi_data.statement_counts c
            JOIN (SELECT o.userid, o.queryid, o.strategy FROM orochi_data.statement_counts o
                  ORDER BY o.last_call > now() - interval '1 minute' DESC, o.calls DESC OFFSET kept) least
                USING (userid, queryid, strategy)
            FOR UPDATE OF c SKIP LOCKED) gone
        WHERE (s.userid, s.queryid, s.strategy) = (gone.userid, gone.queryid, gone.strategy);
    DELETE FROM orochi_data.session_activity s USING (
            SELECT o.pid FROM orochi_data.session_activity o
            WHERE NOT EXISTS (SELECT FROM pg_stat_get_activity(NULL) a WHERE a.pid = o.pid)
            FOR UPDATE OF o SKIP LOCKED) gone
        WHERE s.pid = gone.pid;
$$;
REVOKE EXECUTE ON FUNCTION orochi._tell_sessions(text, json, integer[]), orochi._tell_statements(json),
    orochi._trim_statistics(integer) FROM PUBLIC;

-- As PostgreSQL has it for its own statistics: whose statements a role may read.
CREATE OR REPLACE FUNCTION orochi._may_read_statistics(owner oid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') OR coalesce(pg_catalog.pg_has_role(owner, 'USAGE'), false)
$$;

CREATE OR REPLACE FUNCTION orochi.stat_statements_reset() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$ DELETE FROM orochi_data.statement_counts $$;

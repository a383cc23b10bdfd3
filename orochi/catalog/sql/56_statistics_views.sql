-- Sessions and statements, as gateways see them. Columns are named as in pg_stat_activity and pg_stat_statements.

-- What a session does that reads or writes shards, only its gateway knows; of all else its own backend tells.
CREATE OR REPLACE VIEW orochi.stat_activity AS
SELECT a.pid::bigint AS global_pid, 0 AS nodeid, false AS is_worker_query,
    a.datid, a.datname, a.pid, a.usesysid, a.usename, a.application_name,
    CASE WHEN m.may THEN g.client_addr END AS client_addr,
    CASE WHEN m.may THEN g.client_port END AS client_port,
    a.backend_start, a.xact_start,
    CASE WHEN o.last THEN g.query_start ELSE a.query_start END AS query_start,
    CASE WHEN o.last THEN g.state_change ELSE a.state_change END AS state_change,
    CASE WHEN a.state = 'active' OR NOT g.is_active THEN a.wait_event_type END AS wait_event_type,
    CASE WHEN a.state = 'active' OR NOT g.is_active THEN a.wait_event END AS wait_event,
    CASE WHEN m.may AND g.is_active THEN 'active' ELSE a.state END AS state,
    a.backend_xid, a.backend_xmin, a.query_id,
    CASE WHEN o.last THEN g.query ELSE a.query END AS query,
    a.backend_type,
    CASE WHEN o.last THEN g.strategy END AS strategy,
    CASE WHEN o.last THEN g.query_id END AS orochi_query_id,
    g.gateway
FROM orochi_data.session_activity g
JOIN pg_stat_activity a ON a.pid = g.pid AND coalesce(a.backend_start = g.backend_start, true)
CROSS JOIN LATERAL (SELECT orochi._may_read_statistics(a.usesysid) AS may) m
CROSS JOIN LATERAL (SELECT m.may AND g.query IS NOT NULL
    AND (g.is_active OR a.state_change IS NULL OR g.state_change >= a.state_change AND a.state <> 'active') AS last) o;

CREATE OR REPLACE VIEW orochi.stat_statements AS
SELECT c.userid, pg_get_userbyid(c.userid) AS username,
    (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AS dbid,
    CASE WHEN m.may THEN c.queryid END AS queryid,
    CASE WHEN m.may THEN c.query ELSE '<insufficient privilege>' END AS query,
    c.strategy, c.calls, c.total AS total_exec_time, c.shortest AS min_exec_time, c.longest AS max_exec_time,
    c.total / c.calls AS mean_exec_time,
    sqrt(greatest(c.squares / c.calls - (c.total / c.calls) ^ 2, 0)) AS stddev_exec_time,
    c.rows, c.since AS stats_since, c.last_call
FROM orochi_data.statement_counts c
CROSS JOIN LATERAL (SELECT orochi._may_read_statistics(c.userid) AS may) m;

-- Of Citus: a statement's strategy is called its executor there.
CREATE OR REPLACE VIEW orochi.citus_stat_statements AS
SELECT queryid, userid, dbid, query, strategy AS executor, NULL::text AS partition_key, calls FROM orochi.stat_statements;

-- Jobs and their runs. Configurations and messages are shown to the owner of a job only.

CREATE OR REPLACE VIEW orochi.jobs AS
SELECT j.job_id,
    coalesce(j.name, 'User-Defined Action') || ' [' || j.job_id || ']' AS application_name,
    j.kind,
    j.schedule_interval, j.max_runtime, j.max_retries, j.retry_period,
    coalesce(n.nspname, 'orochi')::name AS proc_schema,
    coalesce(p.proname, CASE j.kind WHEN 'refresh' THEN 'policy_refresh_continuous_aggregate'
        ELSE 'policy_' || j.kind END)::name AS proc_name,
    coalesce(pg_get_userbyid(j.owner_oid), j.owner_oid::text::name) AS owner,
    j.enabled AS scheduled,
    j.fixed_schedule,
    CASE WHEN orochi._is_mine(j.owner_oid) THEN j.config END AS config,
    CASE WHEN j.enabled THEN j.next_due END AS next_start,
    j.initial_start,
    j.timezone,
    t.table_oid::regclass::text AS relation,
    v.nspname AS hypertable_schema,
    c.relname AS hypertable_name
FROM orochi.orochi_jobs j
LEFT JOIN pg_proc p ON p.oid = j.proc_oid
LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN orochi.orochi_continuous_aggregates a ON a.materialization_oid = j.table_oid
CROSS JOIN LATERAL (SELECT coalesce(a.view_oid, j.table_oid) AS table_oid) t
LEFT JOIN pg_class c ON c.oid = t.table_oid
LEFT JOIN pg_namespace v ON v.oid = c.relnamespace;

CREATE OR REPLACE VIEW orochi.job_history AS
SELECT r.run_id AS id, r.job_id,
    CASE WHEN r.finished_at IS NOT NULL THEN r.state = 'succeeded' END AS succeeded,
    j.application_name, r.kind, j.relation, j.proc_schema, j.proc_name,
    r.pid, r.started_at AS start_time, r.finished_at AS finish_time,
    r.finished_at - r.started_at AS duration,
    j.config, r.sqlstate AS sqlerrcode, r.message AS err_message,
    r.task_id, r.state, r.due_at, r.scheduled, r.worker, r.rows, r.bytes, r.details
FROM orochi.orochi_job_runs r
LEFT JOIN orochi.orochi_jobs o USING (job_id)
LEFT JOIN orochi.jobs j USING (job_id)
WHERE orochi._is_mine(coalesce(o.owner_oid, (SELECT c.relowner FROM pg_class c WHERE c.oid = r.table_oid)));

CREATE OR REPLACE VIEW orochi.job_errors AS
SELECT h.job_id, h.proc_schema, h.proc_name, h.pid, h.start_time, h.finish_time, h.sqlerrcode, h.err_message,
    h.application_name, h.task_id, h.id AS run_id
FROM orochi.job_history h WHERE h.succeeded = false;

CREATE OR REPLACE VIEW orochi.job_stats AS
SELECT j.hypertable_schema, j.hypertable_name, j.job_id,
    l.started_at AS last_run_started_at,
    s.finished_at AS last_successful_finish,
    CASE l.state WHEN 'succeeded' THEN 'Success' WHEN 'failed' THEN 'Failed' WHEN 'crashed' THEN 'Crashed'
        ELSE initcap(l.state) END AS last_run_status,
    CASE WHEN u.run_id IS NOT NULL THEN 'Running' WHEN o.enabled THEN 'Scheduled' ELSE 'Paused' END AS job_status,
    l.finished_at - l.started_at AS last_run_duration,
    j.next_start, o.total_runs, o.total_successes, o.total_failures, o.consecutive_failures,
    j.application_name, j.kind, j.relation
FROM orochi.orochi_jobs o
JOIN orochi.jobs j USING (job_id)
LEFT JOIN LATERAL (SELECT * FROM orochi.orochi_job_runs r WHERE r.job_id = o.job_id AND r.finished_at IS NOT NULL
    ORDER BY r.run_id DESC LIMIT 1) l ON true
LEFT JOIN LATERAL (SELECT r.finished_at FROM orochi.orochi_job_runs r WHERE r.job_id = o.job_id AND r.state = 'succeeded'
    ORDER BY r.run_id DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT r.run_id FROM orochi.orochi_job_runs r WHERE r.job_id = o.job_id AND r.finished_at IS NULL) u ON true;

CREATE OR REPLACE VIEW orochi.job_progress AS
SELECT h.id AS run_id, h.job_id, h.application_name, h.kind, h.relation, h.task_id, h.state, h.worker,
    h.start_time, clock_timestamp() - h.start_time AS elapsed,
    r.progress_done AS done, r.progress_total AS total, r.progress_what AS what,
    round(100.0 * r.progress_done / nullif(r.progress_total, 0), 1) AS percent,
    h.rows, h.bytes
FROM orochi.job_history h JOIN orochi.orochi_job_runs r ON r.run_id = h.id
WHERE r.finished_at IS NULL;

CREATE OR REPLACE VIEW timescaledb_information.jobs AS
SELECT job_id, application_name, schedule_interval, max_runtime, max_retries, retry_period, proc_schema, proc_name, owner,
    scheduled, fixed_schedule, config, next_start, initial_start, hypertable_schema, hypertable_name,
    NULL::name AS check_schema, NULL::name AS check_name
FROM orochi.jobs;

CREATE OR REPLACE VIEW timescaledb_information.job_stats AS
SELECT hypertable_schema, hypertable_name, job_id, last_run_started_at, last_successful_finish, last_run_status, job_status,
    last_run_duration, next_start, total_runs, total_successes, total_failures
FROM orochi.job_stats;

CREATE OR REPLACE VIEW timescaledb_information.job_errors AS
SELECT job_id, proc_schema, proc_name, pid, start_time, finish_time, sqlerrcode, err_message FROM orochi.job_errors;

CREATE OR REPLACE VIEW timescaledb_information.job_history AS
SELECT id, job_id, succeeded, proc_schema, proc_name, pid, start_time, finish_time, config, sqlerrcode, err_message
FROM orochi.job_history WHERE start_time IS NOT NULL;

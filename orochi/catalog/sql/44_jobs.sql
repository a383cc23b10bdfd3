-- Jobs: when they run next, how a run begins and ends. A run is locked by the connection of the worker that runs it.

-- The point in time, in the dimension's raw units, that lies `age` before now.
CREATE OR REPLACE FUNCTION orochi._policy_boundary(relation regclass, age text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    type_oid oid := orochi._dimension_type(relation);
    newest bigint;
BEGIN
    IF orochi._is_time(type_oid) THEN
        RETURN orochi._timestamptz_to_raw(orochi._now() - age::interval, type_oid);
    ELSIF to_regprocedure('orochi._integer_now(regclass)') IS NOT NULL THEN
        EXECUTE 'SELECT orochi._integer_now($1)' INTO newest USING relation;
    END IF;
    IF newest IS NULL THEN
        RAISE EXCEPTION '% has an integer time column, whose age is not known', orochi._shown(relation)
            USING ERRCODE = '0A000', HINT = 'Tell what now is with set_integer_now_func().';
    END IF;
    RETURN newest - age::bigint;
END $$;

-- A point in time from raw units, as an argument of `refresh_continuous_aggregate`; in a session whose zone is UTC.
CREATE OR REPLACE FUNCTION orochi._raw_value(relation oid, raw bigint) RETURNS orochi.time_value
LANGUAGE sql STABLE AS $$
    SELECT (CASE WHEN orochi._is_time(t.oid) THEN 'timestamptz ' || orochi._raw_to_timestamptz(raw, t.oid)::text
        ELSE raw::text END)::orochi.time_value
    FROM (SELECT orochi._dimension_type(relation::regclass) AS oid) t
$$;

-- The first time after `after` on the grid of `step` that begins with `initial`.
CREATE OR REPLACE FUNCTION orochi._next_start(initial timestamptz, step interval, after timestamptz, zone text)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    origin timestamp := initial AT TIME ZONE coalesce(zone, 'UTC');
    longest double precision := (extract(year FROM step) * 12 + extract(month FROM step)) * 31 * 86400
        + extract(day FROM step) * 90000 + extract(hour FROM step) * 3600
        + extract(minute FROM step) * 60 + extract(second FROM step);
    steps bigint := greatest(0, floor(extract(epoch FROM after - initial) / longest)::bigint - 1);
    found timestamptz;
BEGIN
    LOOP
        found := (origin + steps * step) AT TIME ZONE coalesce(zone, 'UTC');
        IF found > after THEN
            RETURN found;
        END IF;
        -- nearly there at the first look, so this ends soon
        steps := steps + greatest(1, floor(extract(epoch FROM after - found) / longest)::bigint - 1);
    END LOOP;
END $$;

-- How long to wait after a failure: longer each time, but never rarer than the schedule asks by much. What was lost with a
-- worker or a connection is tried again soon.
CREATE OR REPLACE FUNCTION orochi._back_off(failures bigint, retry interval, schedule interval, lost boolean)
RETURNS interval LANGUAGE sql IMMUTABLE AS $$
    SELECT least(CASE WHEN lost THEN interval '1 second' ELSE least(retry, greatest(schedule, interval '1 second')) END
                 * power(2, least(failures, 20) - 1),
                 greatest(least(schedule * 5, interval '1 hour'), interval '1 second'))
$$;

-- A run that somebody asks for now. NULL while another run of the job is not finished.
CREATE OR REPLACE FUNCTION orochi._queue_run(wanted integer) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO orochi.orochi_job_runs (job_id, kind, table_oid, due_at, scheduled, task_id)
        SELECT job_id, kind, table_oid, orochi._now(), false, gen_random_uuid()::text
        FROM orochi.orochi_jobs WHERE job_id = wanted
        ON CONFLICT DO NOTHING RETURNING run_id
$$;

-- Runs of jobs that are due, at most `most` of a kind at the same time (`most_of_users` of users' jobs).
CREATE OR REPLACE FUNCTION orochi._claim_due(most integer, most_of_users integer) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH unfinished AS (
        SELECT r.job_id, r.kind FROM orochi.orochi_job_runs r WHERE r.finished_at IS NULL AND r.job_id IS NOT NULL
    ), ready AS (
        SELECT j.job_id, j.kind, row_number() OVER (PARTITION BY j.kind ORDER BY j.next_due, j.job_id) AS place
        FROM orochi.orochi_jobs j
        WHERE j.enabled AND j.next_due <= orochi._now() AND j.job_id NOT IN (SELECT u.job_id FROM unfinished u)
    ), chosen AS (
        SELECT job_id FROM ready r
        WHERE place + (SELECT count(*) FROM unfinished u WHERE u.kind = r.kind)
            <= CASE r.kind WHEN 'user' THEN most_of_users ELSE most END
    ), due AS (
        SELECT j.job_id, j.kind, j.table_oid, j.next_due FROM orochi.orochi_jobs j
        WHERE j.job_id IN (SELECT job_id FROM chosen) AND j.enabled AND j.next_due <= orochi._now()
        ORDER BY j.next_due FOR UPDATE SKIP LOCKED
    )
    INSERT INTO orochi.orochi_job_runs (job_id, kind, table_oid, due_at, task_id)
        SELECT job_id, kind, table_oid, next_due, gen_random_uuid()::text FROM due
        ON CONFLICT DO NOTHING RETURNING run_id
$$;

CREATE OR REPLACE FUNCTION orochi._finish_run(
    run bigint, outcome text, code text, said text, counted_rows bigint, counted_bytes bigint, noted jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    job orochi.orochi_jobs;
    ended orochi.orochi_job_runs;
BEGIN
    -- first the job, then the run, like everybody
    SELECT j.* INTO job FROM orochi.orochi_jobs j
        WHERE j.job_id = (SELECT r.job_id FROM orochi.orochi_job_runs r WHERE r.run_id = run) FOR UPDATE;
    UPDATE orochi.orochi_job_runs SET finished_at = clock_timestamp(), state = outcome, sqlstate = code, message = said,
            rows = counted_rows, bytes = counted_bytes, details = details || noted
        WHERE run_id = run AND finished_at IS NULL RETURNING * INTO ended;
    IF ended.run_id IS NULL OR job.job_id IS NULL THEN
        RETURN;
    END IF;
    job.total_runs := job.total_runs + 1;
    IF outcome = 'succeeded' THEN
        job.total_successes := job.total_successes + 1;
        job.consecutive_failures := 0;
    ELSE
        job.total_failures := job.total_failures + 1;
        job.consecutive_failures := job.consecutive_failures + 1;
        IF job.max_retries >= 0 AND job.consecutive_failures > job.max_retries THEN
            job.enabled := false;
        END IF;
    END IF;
    IF ended.scheduled AND ended.due_at = job.next_due THEN  -- else it was given another time meanwhile
        job.next_due := CASE
            WHEN outcome <> 'succeeded' THEN orochi._now() + orochi._back_off(
                job.consecutive_failures, job.retry_period, job.schedule_interval,
                outcome = 'crashed' OR code ~ '^(08|57P0[123]|58000|53300)')
            WHEN job.fixed_schedule AND job.initial_start IS NOT NULL THEN
                orochi._next_start(job.initial_start, job.schedule_interval, orochi._now(), job.timezone)
            ELSE orochi._now() + job.schedule_interval END;
    END IF;
    UPDATE orochi.orochi_jobs SET next_due = job.next_due, enabled = job.enabled, total_runs = job.total_runs,
            total_successes = job.total_successes, total_failures = job.total_failures,
            consecutive_failures = job.consecutive_failures
        WHERE job_id = job.job_id;
    IF job.total_runs % 100 = 0 THEN
        DELETE FROM orochi.orochi_job_runs r WHERE r.job_id = job.job_id AND r.finished_at IS NOT NULL AND r.run_id < (
            SELECT kept.run_id FROM orochi.orochi_job_runs kept WHERE kept.job_id = job.job_id
            ORDER BY kept.run_id DESC OFFSET 999 LIMIT 1);
    END IF;
END $$;

-- Ends runs whose worker died: nobody holds their lock any more (`lock_class` is that of all jobs' locks).
CREATE OR REPLACE FUNCTION orochi._bury_runs(lock_class integer) RETURNS bigint
LANGUAGE sql AS $$
    SELECT count(orochi._finish_run(r.run_id, 'crashed', '58000', 'the worker that ran the job died',
                                    r.rows, r.bytes, '{}'))
    FROM orochi.orochi_job_runs r
    WHERE r.finished_at IS NULL AND r.state <> 'queued' AND r.job_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND l.classid = lock_class::oid AND l.objid = r.job_id::oid)
$$;

-- Who may see what a job did and change it: its owner, members of that role, superusers.
CREATE OR REPLACE FUNCTION orochi._is_mine(owner oid) RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT coalesce(pg_has_role(current_user, owner, 'USAGE'), false) $$;
REVOKE EXECUTE ON FUNCTION orochi._queue_run(integer), orochi._claim_due(integer, integer), orochi._bury_runs(integer),
    orochi._finish_run(bigint, text, text, text, bigint, bigint, jsonb) FROM PUBLIC;

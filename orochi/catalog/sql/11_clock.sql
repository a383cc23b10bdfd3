-- What policies and schedules take for now: the time of a frozen clock, if there is one. Durations, leases and
-- grace periods follow the real clock.
CREATE OR REPLACE FUNCTION orochi._now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce((SELECT c.frozen_at FROM orochi.orochi_clock c), now()) $$;

-- Only who may write the catalog may set the clock.
CREATE OR REPLACE FUNCTION orochi.set_clock(new_time timestamptz) RETURNS timestamptz
LANGUAGE sql AS $$
    INSERT INTO orochi.orochi_clock (frozen_at) SELECT set_clock.new_time
        ON CONFLICT (singleton) DO UPDATE SET frozen_at = excluded.frozen_at
        RETURNING frozen_at
$$;

CREATE OR REPLACE FUNCTION orochi.advance_clock(by_time interval) RETURNS timestamptz
LANGUAGE sql AS $$ SELECT orochi.set_clock(orochi._now() + advance_clock.by_time) $$;

CREATE OR REPLACE FUNCTION orochi.reset_clock() RETURNS void
LANGUAGE sql AS $$ DELETE FROM orochi.orochi_clock $$;

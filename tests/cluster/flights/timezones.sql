-- name: spring-forward
SET timezone = 'America/New_York';
SELECT time_hour, count(*) FROM flights
WHERE time_hour >= '2013-03-10 00:00' AND time_hour < '2013-03-11 00:00' GROUP BY 1 ORDER BY 1

-- name: fall-back
SET timezone = 'America/New_York';
SELECT time_hour, extract(hour FROM time_hour) AS hour, count(*) FROM flights
WHERE time_hour >= '2013-11-03 00:00' AND time_hour < '2013-11-04 00:00' GROUP BY 1 ORDER BY 1

-- name: day-in-zone
SET timezone = 'America/New_York';
SELECT date_trunc('day', time_hour) AS day, count(*) FROM flights WHERE month IN (3, 11) GROUP BY 1 ORDER BY 1

-- name: at-time-zone
SELECT (time_hour AT TIME ZONE 'America/Los_Angeles')::date AS day, count(*) FROM flights WHERE month = 3 GROUP BY 1 ORDER BY 1

-- name: zone-of-each-airport
SELECT f.dest, f.time_hour AT TIME ZONE a.tzone AS local_time FROM flights AS f JOIN airports AS a ON a.faa = f.dest
WHERE f.dest IN ('HNL', 'ANC')

-- name: three-argument-trunc
SELECT date_trunc('week', time_hour, 'Australia/Sydney') AS week, count(*), min(dep_delay) FROM flights GROUP BY 1 ORDER BY 1

-- name: interval-arithmetic
SET timezone = 'Europe/Berlin';
SELECT DISTINCT time_hour + interval '1 month 2 days' AS later, time_hour - timestamptz '2013-01-01 00:00+00' AS since
FROM flights WHERE dest = 'ANC'

-- name: date-style
SET datestyle = 'German, DMY';
SELECT DISTINCT time_hour, time_hour::date AS day FROM flights WHERE dest = 'ANC'

-- name: interval-style
SET intervalstyle = 'iso_8601';
SELECT carrier, max(time_hour) - min(time_hour) AS span FROM flights GROUP BY carrier

-- name: time-literal-in-session-zone
SET timezone = 'Asia/Kolkata';
SELECT count(*) FROM flights WHERE time_hour BETWEEN '2013-06-01 00:00' AND '2013-06-30 23:59:59'

-- name: extra-float-digits
SET extra_float_digits = 0;
SELECT origin, temp, humid, pressure FROM weather WHERE month = 1 AND day = 1

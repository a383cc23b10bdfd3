-- name: everything-of-one-destination
SELECT * FROM flights WHERE dest = 'IAH'

-- name: star-through-alias
SELECT f.* FROM flights AS f WHERE f.dest = 'HNL' AND f.month = 1

-- name: count-all
SELECT count(*) FROM flights

-- name: range-of-time
SELECT carrier, flight, time_hour FROM flights
WHERE time_hour >= '2013-03-01 00:00+00' AND time_hour < '2013-03-02 00:00+00'

-- name: between-and-in
SELECT count(*), min(time_hour), max(time_hour) FROM flights
WHERE dest IN ('IAH', 'MIA', 'BQN', 'no such') AND distance BETWEEN 1000 AND 1500

-- name: nulls
SELECT count(*), count(dep_time), count(tailnum), count(*) FILTER (WHERE air_time IS NULL) FROM flights

-- name: is-not-distinct
SELECT count(*) FROM flights WHERE dep_time IS NOT DISTINCT FROM NULL AND tailnum IS DISTINCT FROM 'N14228'

-- name: not-in-with-null
SELECT count(*) FROM flights WHERE dest NOT IN ('IAH', NULL)

-- name: like-and-regex
SELECT DISTINCT tailnum FROM flights WHERE tailnum LIKE 'N1%UW' OR tailnum ~ '^N9[0-9]{2}AT$'

-- name: expression-in-where
SELECT carrier, flight, dep_delay + arr_delay AS total FROM flights
WHERE dep_delay + arr_delay > 900 OR (dep_delay IS NULL AND month = 2 AND day = 9 AND dest = 'BOS')

-- name: false-condition
SELECT * FROM flights WHERE false

-- name: empty-range
SELECT sum(distance), count(*), max(dest) FROM flights WHERE time_hour > '2030-01-01'

-- name: or-across-shards
SELECT dest, month, day, flight FROM flights
WHERE (dest = 'ANC') OR (dest = 'LEX') OR (dest = 'SBN' AND month > 6)

-- name: case-and-coalesce
SELECT CASE WHEN dep_delay IS NULL THEN 'cancelled' WHEN dep_delay > 60 THEN 'late' ELSE 'fine' END AS how,
       count(*), sum(coalesce(dep_delay, 0)) FROM flights GROUP BY 1

-- name: constant-select
SELECT 1 AS one, 'x' AS x, NULL AS nothing FROM flights WHERE dest = 'ANC'

-- name: array-any
SELECT count(*) FROM flights WHERE carrier = ANY (ARRAY['UA', 'B6']) AND dest <> ALL (ARRAY['IAH', 'BOS'])

-- name: row-comparison
SELECT carrier, flight, month, day FROM flights WHERE (month, day) = (12, 31) AND (carrier, flight) > ('UA', 1500)

-- name: whole-row
SELECT a FROM airlines AS a

-- name: system-function-and-cast
SELECT DISTINCT distance::text || ' mi' AS label, (distance * 1.609344)::numeric(10, 3) AS km FROM flights
WHERE dest IN ('ANC', 'HNL')

-- name: group-by-carrier
SELECT carrier, count(*), sum(distance), avg(dep_delay), min(arr_delay), max(arr_delay) FROM flights GROUP BY carrier

-- name: group-by-distribution-column
SELECT dest, count(*), avg(arr_delay), max(time_hour) FROM flights GROUP BY dest

-- name: group-by-two-and-having
SELECT origin, dest, count(*) AS n FROM flights GROUP BY origin, dest HAVING count(*) > 300 ORDER BY n DESC, origin, dest

-- name: group-by-expression
SELECT date_trunc('month', time_hour) AS month, count(*) AS flights, count(DISTINCT dest) AS places
FROM flights GROUP BY 1 ORDER BY 1

-- name: statistics
SELECT carrier, stddev(dep_delay), variance(dep_delay), stddev_pop(arr_delay), var_pop(air_time)
FROM flights GROUP BY carrier

-- name: float-statistics
SELECT origin, avg(temp), stddev(temp), sum(precip), min(pressure), max(wind_gust), corr(temp, dewp)
FROM weather GROUP BY origin

-- name: bool-aggregates
SELECT carrier, bool_and(dep_delay > -60), bool_or(dep_delay > 600), every(distance > 0) FROM flights GROUP BY carrier

-- name: bit-aggregates
SELECT bit_and(flight), bit_or(flight), bit_xor(flight) FROM flights

-- name: count-distinct
SELECT count(DISTINCT dest), count(DISTINCT tailnum), count(DISTINCT (origin, dest)) FROM flights

-- name: distinct
SELECT DISTINCT origin, carrier FROM flights ORDER BY origin, carrier

-- name: distinct-on
SELECT DISTINCT ON (dest) dest, time_hour, carrier, flight FROM flights
ORDER BY dest, time_hour DESC, carrier, flight

-- name: ordered-aggregates
SELECT origin, string_agg(DISTINCT carrier, ',' ORDER BY carrier), array_agg(DISTINCT month ORDER BY month DESC)
FROM flights GROUP BY origin

-- name: ordered-set-aggregates
SELECT carrier, percentile_cont(0.5) WITHIN GROUP (ORDER BY dep_delay), mode() WITHIN GROUP (ORDER BY dest)
FROM flights GROUP BY carrier

-- name: filter-clause
SELECT month, count(*) FILTER (WHERE dep_delay > 15) AS late, sum(distance) FILTER (WHERE carrier = 'AA') AS aa
FROM flights GROUP BY month ORDER BY month

-- name: grouping-sets
SELECT origin, carrier, grouping(origin, carrier), count(*) FROM flights
GROUP BY GROUPING SETS ((origin, carrier), (origin), ())

-- name: rollup
SELECT month, origin, sum(distance) FROM flights WHERE month <= 3 GROUP BY ROLLUP (month, origin)

-- name: cube
SELECT month > 6 AS second_half, origin, count(*) FROM flights GROUP BY CUBE (1, 2)

-- name: having-without-group
SELECT sum(distance) FROM flights HAVING count(*) > 10

-- name: having-nothing
SELECT sum(distance) FROM flights HAVING count(*) < 0

-- name: aggregate-of-expression
SELECT sum(CASE WHEN arr_delay > dep_delay THEN 1 ELSE 0 END)::float8 / count(*) AS share FROM flights
WHERE arr_delay IS NOT NULL

-- name: integer-division
SELECT flight / 7 AS a, flight % 7 AS b, count(*), sum(flight / 3) FROM flights
WHERE carrier = 'US' GROUP BY 1, 2

-- name: numeric-scale
SELECT origin, sum(distance::numeric / 3), avg(distance::numeric(12, 4)), sum(1.10) FROM flights GROUP BY origin

-- name: group-by-null-key
SELECT tailnum IS NULL AS unknown, arr_time IS NULL AS lost, count(*) FROM flights GROUP BY 1, 2

-- name: aggregate-over-subquery
SELECT max(n), min(n), avg(n) FROM (SELECT tailnum, count(*) AS n FROM flights GROUP BY tailnum) AS per_plane

-- name: json-aggregate
SELECT origin, jsonb_object_agg(carrier, n ORDER BY carrier) FROM (
  SELECT origin, carrier, count(*) AS n FROM flights GROUP BY origin, carrier) AS s GROUP BY origin

-- name: order-by-aggregate
SELECT tailnum, count(*) AS n FROM flights WHERE tailnum IS NOT NULL
GROUP BY tailnum ORDER BY count(*) DESC, tailnum LIMIT 7

-- name: output-named-as-the-table
SELECT carrier, count(*) AS flights, round(avg(distance), 2) AS distance FROM flights GROUP BY carrier
ORDER BY flights DESC, carrier LIMIT 5

-- name: group-by-output-named-as-the-table
SELECT carrier AS flights, count(*) FROM flights GROUP BY flights ORDER BY flights

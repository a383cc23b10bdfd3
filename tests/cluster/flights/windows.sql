-- name: row-number
SELECT dest, time_hour, flight, row_number() OVER (PARTITION BY dest ORDER BY time_hour, carrier, flight) AS n FROM flights
WHERE dest IN ('ANC', 'LEX', 'SBN')

-- name: rank-of-aggregate
SELECT carrier, count(*) AS n, rank() OVER (ORDER BY count(*) DESC) FROM flights GROUP BY carrier ORDER BY n DESC, carrier

-- name: lag-lead
SELECT month, n, n - lag(n) OVER (ORDER BY month) AS change, lead(n, 1, 0::bigint) OVER (ORDER BY month)
FROM (SELECT month, count(*) AS n FROM flights GROUP BY month) AS m ORDER BY month

-- name: moving-average
SELECT month, avg(n) OVER (ORDER BY month ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS smooth
FROM (SELECT month, count(*)::int AS n FROM flights GROUP BY month) AS m ORDER BY month

-- name: named-window
SELECT DISTINCT dest, first_value(carrier) OVER w, last_value(carrier) OVER w FROM flights
WINDOW w AS (PARTITION BY dest ORDER BY time_hour, carrier RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)

-- name: share-of-total
SELECT origin, count(*) AS n, round(100.0 * count(*) / sum(count(*)) OVER (), 3) AS percent FROM flights GROUP BY origin

-- name: ntile-of-all
SELECT quarter, min(distance), max(distance) FROM (
  SELECT distance, ntile(4) OVER (ORDER BY distance, time_hour, carrier, flight, tailnum) AS quarter FROM flights) AS q
GROUP BY quarter ORDER BY quarter

-- name: order-limit
SELECT time_hour, carrier, flight, tailnum FROM flights ORDER BY time_hour, carrier, flight, tailnum LIMIT 20

-- name: order-limit-offset
SELECT dep_delay, carrier, flight FROM flights WHERE dep_delay IS NOT NULL
ORDER BY dep_delay DESC, carrier, flight LIMIT 10 OFFSET 5

-- name: nulls-first
SELECT dep_delay, time_hour, flight, carrier FROM flights ORDER BY dep_delay NULLS FIRST, time_hour, flight, carrier LIMIT 15

-- name: descending-nulls
SELECT arr_delay, time_hour, flight, carrier FROM flights ORDER BY arr_delay DESC, time_hour, flight, carrier LIMIT 15

-- name: order-by-expression-not-selected
SELECT carrier, flight FROM flights WHERE dest = 'HNL' ORDER BY abs(coalesce(arr_delay, 0)) DESC, time_hour, flight LIMIT 9

-- name: fetch-with-ties
SELECT * FROM (
  SELECT dest, count(*) AS n FROM flights GROUP BY dest ORDER BY n DESC FETCH FIRST 5 ROWS WITH TIES) AS top

-- name: limit-zero
SELECT * FROM flights LIMIT 0

-- name: offset-beyond
SELECT dest FROM flights WHERE dest = 'ANC' ORDER BY 1 OFFSET 100000

-- name: order-by-collation
SELECT DISTINCT name COLLATE "C" AS name FROM airports WHERE name LIKE 'S%' ORDER BY name COLLATE "C" LIMIT 25

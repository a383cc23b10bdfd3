-- name: cte
WITH late AS (SELECT dest, carrier, dep_delay FROM flights WHERE dep_delay > 120)
SELECT carrier, count(*) FROM late GROUP BY carrier

-- name: cte-twice
WITH busy AS MATERIALIZED (SELECT dest, count(*) AS n FROM flights GROUP BY dest)
SELECT a.dest, b.dest AS next_busier FROM busy AS a JOIN busy AS b ON b.n = a.n + 1

-- name: cte-recursive
WITH RECURSIVE months(m) AS (SELECT 1 UNION ALL SELECT m + 1 FROM months WHERE m < 12)
SELECT m, (SELECT count(*) FROM flights WHERE month = m) FROM months ORDER BY m

-- name: scalar-subquery
SELECT carrier, flight, distance FROM flights WHERE distance = (SELECT max(distance) FROM flights)

-- name: correlated-scalar
SELECT a.faa, (SELECT count(*) FROM flights AS f WHERE f.dest = a.faa) AS n FROM airports AS a WHERE a.alt > 6000

-- name: exists
SELECT p.tailnum FROM planes AS p WHERE p.year < 1975 AND EXISTS (SELECT FROM flights AS f WHERE f.tailnum = p.tailnum)

-- name: not-exists
SELECT l.name FROM airlines AS l WHERE NOT EXISTS (SELECT 1 FROM flights AS f WHERE f.carrier = l.carrier AND f.dest = 'BOS')

-- name: in-subquery
SELECT count(*) FROM flights WHERE dest IN (SELECT faa FROM airports WHERE tzone = 'America/Los_Angeles')

-- name: in-subquery-of-other-key
SELECT dest, count(*) FROM flights WHERE tailnum IN (SELECT tailnum FROM planes WHERE engines = 4) GROUP BY dest

-- name: not-in-subquery
SELECT DISTINCT dest FROM flights WHERE dest NOT IN (SELECT faa FROM airports)

-- name: any-all
SELECT count(*) FROM flights WHERE distance > ALL (SELECT distance FROM flights WHERE dest = 'LAX' AND distance IS NOT NULL)

-- name: correlated-average
SELECT f.carrier, f.flight, f.dep_delay FROM flights AS f
WHERE f.month = 1 AND f.day = 10 AND f.dep_delay > 20
  AND f.dep_delay > (SELECT avg(g.dep_delay) FROM flights AS g WHERE g.dest = f.dest AND g.month <> f.month)

-- name: from-subquery-with-limit
SELECT avg(distance) FROM (SELECT distance FROM flights ORDER BY distance DESC, time_hour LIMIT 100) AS longest

-- name: nested-aggregate
SELECT month, max(total) FROM (SELECT month, day, sum(distance) AS total FROM flights GROUP BY month, day) AS days
GROUP BY month ORDER BY month

-- name: view
SELECT * FROM late_flights WHERE dest = 'ATL' AND delay > 200

-- name: view-of-view
SELECT carrier, n FROM late_by_carrier ORDER BY n DESC, carrier

-- name: array-subquery
SELECT l.carrier, ARRAY(SELECT DISTINCT f.origin FROM flights AS f WHERE f.carrier = l.carrier ORDER BY 1) FROM airlines AS l

-- name: union
SELECT dest AS place FROM flights WHERE month = 1 UNION SELECT faa FROM airports WHERE alt < 0

-- name: union-all
SELECT 'flights' AS what, count(*) FROM flights UNION ALL SELECT 'weather', count(*) FROM weather ORDER BY 1

-- name: intersect
SELECT origin FROM flights INTERSECT SELECT origin FROM weather

-- name: except
SELECT faa FROM airports EXCEPT SELECT dest FROM flights

-- name: set-of-sets
(SELECT dest FROM flights WHERE carrier = 'AS' UNION SELECT 'XXX') EXCEPT ALL SELECT 'XXX' ORDER BY 1

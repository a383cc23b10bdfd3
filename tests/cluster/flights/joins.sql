-- name: co-located
SELECT f.dest, a.name, count(*) FROM flights AS f JOIN airports AS a ON f.dest = a.faa GROUP BY f.dest, a.name

-- name: co-located-one-key
SELECT a.name, f.carrier, f.flight FROM flights AS f JOIN airports AS a ON a.faa = f.dest
WHERE f.dest = 'ANC' ORDER BY 1, 2, 3

-- name: reference
SELECT l.name, count(*) AS n, avg(f.arr_delay) AS delay FROM flights AS f JOIN airlines AS l USING (carrier)
GROUP BY l.name ORDER BY n DESC, l.name

-- name: reference-left
SELECT f.carrier, f.dest, f.tailnum, p.model FROM flights AS f LEFT JOIN planes AS p ON p.tailnum = f.tailnum
WHERE f.time_hour < '2013-01-02 00:00+00'

-- name: reference-right
SELECT p.tailnum, p.model, f.flight FROM flights AS f RIGHT JOIN planes AS p ON p.tailnum = f.tailnum AND f.month = 1
WHERE p.manufacturer = 'CESSNA'

-- name: full
SELECT coalesce(f.dest, a.faa) AS place, f.n, a.alt FROM (SELECT dest, count(*) AS n FROM flights GROUP BY dest) AS f
FULL JOIN airports AS a ON a.faa = f.dest

-- name: not-co-located
SELECT f.origin, f.dest, f.flight, w.temp, w.wind_speed FROM flights AS f
JOIN weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE f.time_hour >= '2013-07-04 00:00+00' AND f.time_hour < '2013-07-05 00:00+00'

-- name: three-tables
SELECT l.name AS airline, a.tzone, count(*) FROM flights AS f
JOIN airlines AS l ON l.carrier = f.carrier JOIN airports AS a ON a.faa = f.dest GROUP BY 1, 2

-- name: four-tables
SELECT l.name, p.manufacturer, a.dst, count(*), max(f.distance) FROM flights AS f, airlines AS l, planes AS p, airports AS a
WHERE l.carrier = f.carrier AND p.tailnum = f.tailnum AND a.faa = f.dest AND p.seats > 200 GROUP BY 1, 2, 3

-- name: five-tables
SELECT l.name, a.name AS place, p.engine, min(w.visib), count(*) FROM flights AS f
JOIN airlines AS l USING (carrier) JOIN airports AS a ON a.faa = f.dest
JOIN planes AS p ON p.tailnum = f.tailnum JOIN weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE f.month = 2 GROUP BY 1, 2, 3

-- name: local-table
SELECT h.name, count(*) FROM flights AS f JOIN holidays AS h
ON h.day = (f.time_hour AT TIME ZONE 'America/New_York')::date GROUP BY h.name

-- name: self-join
SELECT count(*) FROM flights AS a JOIN flights AS b ON a.dest = b.dest AND a.time_hour = b.time_hour AND a.flight < b.flight

-- name: self-join-elsewhere
SELECT a.carrier, b.carrier AS other, count(*) FROM flights AS a JOIN flights AS b
ON a.tailnum = b.tailnum AND a.carrier < b.carrier WHERE a.month < 3 GROUP BY 1, 2

-- name: cross
SELECT l.carrier, h.name FROM airlines AS l CROSS JOIN holidays AS h

-- name: inequality
SELECT h.name, count(*) FROM holidays AS h JOIN flights AS f
ON f.time_hour >= h.day AND f.time_hour < h.day + 1 GROUP BY h.name

-- name: natural
SELECT count(*) FROM flights NATURAL JOIN airlines

-- name: using-several
SELECT origin, count(*), avg(temp) FROM flights JOIN weather USING (origin, time_hour) WHERE dest = 'BOS' GROUP BY origin

-- name: anti-by-left-join
SELECT a.faa FROM airports AS a LEFT JOIN flights AS f ON f.dest = a.faa WHERE f.dest IS NULL AND a.tzone = 'America/Denver'

-- name: lateral
SELECT a.faa, latest.flight, latest.time_hour FROM airports AS a, LATERAL (
  SELECT flight, time_hour FROM flights AS f WHERE f.dest = a.faa ORDER BY time_hour DESC, flight LIMIT 2) AS latest
WHERE a.tzone = 'Pacific/Honolulu'

-- name: join-values
SELECT v.label, count(*) FROM flights AS f JOIN (VALUES ('BOS', 'near'), ('LAX', 'far')) AS v(code, label) ON v.code = f.dest
GROUP BY v.label

-- name: join-generate-series
SELECT d.day, count(f.flight) FROM generate_series(1, 31) AS d(day) LEFT JOIN flights AS f ON f.day = d.day AND f.month = 10
GROUP BY d.day

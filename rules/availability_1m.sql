/*
title = "Availability by the minute"
question = "Was each registered host there in this minute? Seconds up, down, unknown and in maintenance, which add up to the time of the minute in which it was registered. The minute is the first of the window; the ten that follow are looked at for a restart. See docs/rollups.md."
every = "1m"
window = "11m"
wait = "20s"
restate = "7d"
sink = "table:availability_1m"
[parameters]
witnesses = { value = 2, help = "So many peers must have failed to reach a host, and have reached others, for it to be down." }
restart_seconds = { value = 600.0, help = "A restart says of no more time than this, before it and after, that the host was down.", unit = "seconds" }
*/
-- Time is looked at in slots of ten seconds.
WITH slot AS (
  SELECT $from + column1 AS slot
  FROM (VALUES (INTERVAL '0 seconds'), (INTERVAL '10 seconds'), (INTERVAL '20 seconds'), (INTERVAL '30 seconds'),
    (INTERVAL '40 seconds'), (INTERVAL '50 seconds')) AS begins
),
-- Which slots a row may speak of, for probes that are asked less often.
reach AS (
  SELECT column1 AS seconds, column2 AS span FROM (VALUES
    (0.0, INTERVAL '0 seconds'), (10.0, INTERVAL '10 seconds'), (20.0, INTERVAL '20 seconds'),
    (30.0, INTERVAL '30 seconds'), (40.0, INTERVAL '40 seconds'), (50.0, INTERVAL '50 seconds'),
    (60.0, INTERVAL '60 seconds'), (70.0, INTERVAL '70 seconds'), (80.0, INTERVAL '80 seconds'),
    (90.0, INTERVAL '90 seconds'), (100.0, INTERVAL '100 seconds'), (110.0, INTERVAL '110 seconds'),
    (120.0, INTERVAL '120 seconds'), (130.0, INTERVAL '130 seconds'), (140.0, INTERVAL '140 seconds'),
    (150.0, INTERVAL '150 seconds'), (160.0, INTERVAL '160 seconds'), (170.0, INTERVAL '170 seconds'),
    (180.0, INTERVAL '180 seconds'), (190.0, INTERVAL '190 seconds'), (200.0, INTERVAL '200 seconds'),
    (210.0, INTERVAL '210 seconds'), (220.0, INTERVAL '220 seconds'), (230.0, INTERVAL '230 seconds'),
    (240.0, INTERVAL '240 seconds'), (250.0, INTERVAL '250 seconds'), (260.0, INTERVAL '260 seconds'),
    (270.0, INTERVAL '270 seconds'), (280.0, INTERVAL '280 seconds'), (290.0, INTERVAL '290 seconds')) AS spans
),
probe AS (
  SELECT node, host, probe, last(interval_seconds, ts) AS seconds
  FROM agent
  WHERE ts >= $from - INTERVAL '5 minutes' AND ts < $to AND probe IN ('system', 'link') AND interval_seconds > 0
  GROUP BY node, host, probe
),
registered AS (
  SELECT r.node, r.host, s.slot
  FROM registration r JOIN slot s ON s.slot >= r.valid_from AND (r.valid_to IS NULL OR s.slot < r.valid_to)
  WHERE r.device = '' AND r.valid_from < $to AND (r.valid_to IS NULL OR r.valid_to > $from)
    AND COALESCE(r.status, '') <> 'retired'
),
-- The agent's own rows: `system` is sampled on every host, most often of all, and tells of the last start.
seen AS (
  SELECT node, host, date_bin(INTERVAL '10 seconds', ts) AS slot, MIN(ts) AS earliest, MAX(ts) AS newest,
    first(boot_time_seconds, ts) AS booted
  FROM system
  WHERE ts >= $from - INTERVAL '5 minutes' AND ts < $to
  GROUP BY node, host, date_bin(INTERVAL '10 seconds', ts)
),
up AS (
  SELECT DISTINCT s.node, s.host, s.slot + r.span AS slot
  FROM seen s
  LEFT JOIN probe p ON p.node = s.node AND p.host = s.host AND p.probe = 'system'
  JOIN reach r ON r.seconds < COALESCE(p.seconds, 1.0)
  WHERE s.slot < $from + INTERVAL '1 minute'
),
missing AS (
  SELECT g.node, g.host, g.slot
  FROM registered g LEFT JOIN up u ON u.node = g.node AND u.host = g.host AND u.slot = g.slot
  WHERE u.slot IS NULL
),
-- Before the host came back it was started anew, and not long from the slot: so it was down.
restarted AS (
  SELECT node, host, slot
  FROM (
    SELECT m.node, m.host, m.slot,
      first(s.booted * 1000000, s.earliest) FILTER (WHERE s.slot > m.slot) AS booted,
      MAX(s.newest) FILTER (WHERE s.slot < m.slot) AS before
    FROM missing m JOIN seen s ON s.node = m.node AND s.host = m.host
    GROUP BY m.node, m.host, m.slot
  ) AS around
  WHERE ABS(booted - CAST(slot AS BIGINT)) <= $restart_seconds * 1000000
    AND (before IS NULL OR booted > CAST(before AS BIGINT))
),
-- What peers saw. A row tells of the time since the one before it.
probed AS (
  SELECT l.node, l.host, COALESCE(p.to_node, l.node) AS to_node, COALESCE(p.to_host, l.host_name) AS to_host,
    date_bin(INTERVAL '10 seconds', l.ts) - INTERVAL '10 seconds' - r.span AS slot,
    SUM(l.received) AS received
  FROM link l
  LEFT JOIN probe i ON i.node = l.node AND i.host = l.host AND i.probe = 'link'
  JOIN reach r ON r.seconds < COALESCE(i.seconds, 10.0)
  LEFT JOIN peer p ON p.node = l.node AND p.peer = l.peer AND (p.host = l.host OR p.host = '')
    AND l.ts >= p.valid_from AND (p.valid_to IS NULL OR l.ts < p.valid_to)
  WHERE l.ts >= $from AND l.ts < $from + INTERVAL '6 minutes' AND l.sent > 0
  GROUP BY 1, 2, 3, 4, 5
),
witness AS (
  SELECT node, host, slot FROM probed GROUP BY node, host, slot HAVING SUM(received) > 0
),
unreachable AS (
  SELECT p.to_node AS node, p.to_host AS host, p.slot
  FROM probed p LEFT JOIN witness w ON w.node = p.node AND w.host = p.host AND w.slot = p.slot
  WHERE p.to_host IS NOT NULL AND NOT (p.host = p.to_host AND p.node = p.to_node)
  GROUP BY p.to_node, p.to_host, p.slot
  HAVING SUM(p.received) = 0 AND COUNT(w.slot) >= $witnesses
),
work AS (
  SELECT node, host, starts, ends FROM maintenance
  WHERE device IS NULL AND starts < $to AND ends > $from
    AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
at_work AS (
  SELECT DISTINCT g.node, g.host, g.slot
  FROM registered g JOIN work w ON w.node = g.node AND (w.host = '' OR w.host = g.host)
  WHERE g.slot >= w.starts AND g.slot < w.ends
),
state AS (
  SELECT g.node, g.host, CASE
      WHEN w.slot IS NOT NULL THEN 'maintenance'
      WHEN u.slot IS NOT NULL THEN 'up'
      WHEN r.slot IS NOT NULL OR n.slot IS NOT NULL THEN 'down'
      ELSE 'unknown'
    END AS state
  FROM registered g
  LEFT JOIN at_work w ON w.node = g.node AND w.host = g.host AND w.slot = g.slot
  LEFT JOIN up u ON u.node = g.node AND u.host = g.host AND u.slot = g.slot
  LEFT JOIN restarted r ON r.node = g.node AND r.host = g.host AND r.slot = g.slot
  LEFT JOIN unreachable n ON n.node = g.node AND n.host = g.host AND n.slot = g.slot
)
SELECT $from AS ts, node, host,
  10 * COUNT(*) FILTER (WHERE state = 'up') AS up_seconds,
  10 * COUNT(*) FILTER (WHERE state = 'down') AS down_seconds,
  10 * COUNT(*) FILTER (WHERE state = 'unknown') AS unknown_seconds,
  10 * COUNT(*) FILTER (WHERE state = 'maintenance') AS maintenance_seconds
FROM state
GROUP BY node, host

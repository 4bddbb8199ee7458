/*
title = "Agent fell silent on a host that is up"
every = "1m"
window = "10m"
wait = "1m"
restate = "1d"
sink = "alert"

[parameters]
periods = { value = 3, unit = "1", help = "Periods of its own rows that must be missing." }
silence_seconds = { value = 90, unit = "seconds", help = "And at least so long." }
peers = { value = 3, unit = "1", help = "Other hosts of its rack that must go on reporting; of its node, where the rack is not known or has fewer." }
together_ratio = { value = 0.2, unit = "ratio", help = "When so many hosts of the node, and three at least, fall silent at once, it is the way to the store: the collector lags, or a link is down." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "2m"
key = ["node", "host"]
summary = "{host} has said nothing since {newest}; {witness} reaches it, and {peers} of its neighbours report"
techniques = ["T1562.001", "T1685", "T1489"]
guard = "Somebody else must have reached the host after its last row (probes over TCP, which the kernel answers); many silent hosts at once are a lag, not an attack; a host whose systemd said that it was stopping; maintenance. A host that nobody probes is unknown, and no incident."
*/
-- Reads: system, 10 min; host, 70 min; link and service, 10 min and 70 min of service's manager alone.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
-- The hour before by the minute, then every row.
beat AS (
  SELECT node, host, ts FROM host WHERE ts >= $to - INTERVAL '70 minutes' AND ts < $to
  UNION ALL
  SELECT node, host, ts FROM system WHERE ts >= $from AND ts < $to
),
pace AS (
  SELECT node, host, extract(epoch FROM max(ts) - min(ts)) / nullif(count(*) - 1, 0) AS period
  FROM host WHERE ts >= $to - INTERVAL '70 minutes' AND ts < $to GROUP BY node, host
),
quick AS (
  SELECT node, host, extract(epoch FROM max(ts) - min(ts)) / nullif(count(*) - 1, 0) AS period
  FROM system WHERE ts >= $from AND ts < $to GROUP BY node, host
),
newest AS (
  SELECT b.node, b.host, max(b.ts) AS newest,
    greatest($silence_seconds, $periods * coalesce(least(max(q.period), max(p.period)), max(p.period), 0)) AS patience
  FROM beat b
  LEFT JOIN pace p ON p.node = b.node AND p.host = b.host
  LEFT JOIN quick q ON q.node = b.node AND q.host = b.host
  GROUP BY b.node, b.host
),
state AS (
  SELECT n.node, n.host, n.newest, extract(epoch FROM $to - n.newest) > n.patience AS silent,
    coalesce(r.rack, '') AS rack
  FROM newest n
  LEFT JOIN registration r ON r.node = n.node AND r.host = n.host AND r.device = ''
    AND r.valid_from < $to AND (r.valid_to IS NULL OR r.valid_to >= $to)
),
rack AS (
  SELECT node, rack, count(*) AS hosts, sum(CASE WHEN silent THEN 0 ELSE 1 END) AS reporting
  FROM state WHERE rack <> '' GROUP BY node, rack
),
together AS (
  SELECT node, count(*) AS hosts, sum(CASE WHEN silent THEN 0 ELSE 1 END) AS reporting,
    sum(CASE WHEN silent AND newest >= $from THEN 1 ELSE 0 END) AS fell_silent
  FROM state GROUP BY node
),
witness AS (
  SELECT coalesce(p.to_node, p.node) AS node, p.to_host AS host, max(l.ts) AS ts, max(l.host) AS witness
  FROM peer p JOIN link l ON l.node = p.node AND l.peer = p.peer AND (p.host = '' OR p.host = l.host)
  WHERE l.ts >= $from AND l.ts < $to AND l.received > 0 AND l.host <> p.to_host
    AND p.valid_from < $to AND (p.valid_to IS NULL OR p.valid_to >= $to)
  GROUP BY coalesce(p.to_node, p.node), p.to_host
),
stopping AS (
  SELECT node, host, max(ts) AS ts FROM service
  WHERE ts >= $to - INTERVAL '70 minutes' AND ts < $to AND unit = 'systemd' AND manager_state = 'stopping'
  GROUP BY node, host
)
SELECT s.node, s.host, s.newest, w.witness, coalesce(k.reporting, t.reporting) AS peers
FROM state s
LEFT JOIN rack k ON k.node = s.node AND k.rack = s.rack AND k.hosts > $peers
JOIN together t ON t.node = s.node
JOIN witness w ON w.node = s.node AND w.host = s.host
WHERE s.silent AND coalesce(k.reporting, t.reporting) >= $peers
  AND NOT (t.fell_silent >= 3 AND t.fell_silent >= $together_ratio * t.hosts)
  -- What ended before the silence says nothing: a probe told of later began later.
  AND w.ts > s.newest + INTERVAL '30 seconds'
  AND NOT EXISTS (
    SELECT 1 FROM stopping x
    WHERE x.node = s.node AND x.host = s.host AND x.ts > s.newest - INTERVAL '2 minutes')
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = s.node AND (q.host = '' OR q.host = s.host))

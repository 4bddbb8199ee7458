/*
title = "Host tells nothing"
every = "1m"
window = "5m"
wait = "30s"
sink = "alert"

[parameters]
minutes = { value = 3, unit = "minutes", help = "Silent for at least so long." }
most = { value = 0.5, unit = "ratio", help = "When more than this part of all hosts is silent, it is the pipeline that is away, and no host is blamed." }

[alert]
severity = "warning"
for = "2m"
resolve_after = "1m"
key = ["node", "host"]
summary = "{host} has told nothing for {silent_seconds:duration}"
techniques = []
guard = "Hosts under maintenance or cordoned; all hosts silent at once, which is a broker or a collector that is away."
*/
-- Hosts of the registry, and those seen in the last two days that nobody has registered.
-- Reads: agent, 1 h; host, 2 days (a row a minute, three columns); registration and maintenance.
WITH known AS (
  SELECT node, host FROM registration
  WHERE host <> '' AND device = '' AND status = 'in_service' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $to)
  UNION
  SELECT node, host FROM host WHERE ts >= $to - INTERVAL '2 days' AND ts < $to
),
left_out AS (
  SELECT node, host FROM registration
  WHERE host <> '' AND device = '' AND status <> 'in_service' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $to)
),
quiet AS (
  SELECT node, host FROM maintenance
  WHERE device IS NULL AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
seen AS (
  SELECT node, host, max(ts) AS last_seen FROM agent
  WHERE probe = 'all' AND ts >= $to - INTERVAL '1 hour' AND ts < $to GROUP BY node, host
),
judged AS (
  SELECT k.node, k.host, s.last_seen,
    coalesce(date_part('epoch', $to) - date_part('epoch', s.last_seen), 3600) AS silent_seconds
  FROM known k LEFT JOIN seen s ON s.node = k.node AND s.host = k.host
  WHERE NOT EXISTS (SELECT 1 FROM left_out o WHERE o.node = k.node AND o.host = k.host)
    AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = k.node AND (q.host = '' OR q.host = k.host))
),
fleet AS (
  SELECT count(*) AS hosts, count(*) FILTER (WHERE silent_seconds >= $minutes * 60) AS silent FROM judged
)
SELECT j.node, j.host, j.last_seen, j.silent_seconds
FROM judged j CROSS JOIN fleet f
WHERE j.silent_seconds >= $minutes * 60 AND (f.silent <= f.hosts * $most OR f.hosts = 1)

/*
title = "Passwords tried, then let in"
every = "1m"
window = "15m"
wait = "1m"
restate = "1d"
sink = "alert"

[parameters]
failures = { value = 8, unit = "1", help = "Failures from one address within two minutes, on all hosts of a node together." }
success = { value = "10 minutes", unit = "interval", help = "A success from there within this time after counts." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "30m"
key = ["node", "host", "source_address"]
summary = "{user} was let in to {host} from {source_address} after {failures} failures within two minutes"
techniques = ["T1110"]
guard = "Nobody guesses keys: refused keys of one user count once, so automation whose key has expired does not count however often it tries. Addresses approved as sources of automation are left out."
*/
-- Reads: login, 15 min.
WITH event AS (
  SELECT l.node, l.host, l.source_address, l.user, l.kind, l.method, coalesce(l.at, l.ts) AS at
  FROM login l
  WHERE l.ts >= $from AND l.ts < $to AND l.source_address IS NOT NULL AND l.kind IN ('failure', 'success')
    AND NOT EXISTS (
      SELECT 1 FROM approved a
      WHERE a.kind = 'source' AND a.name = 'ssh' AND a.value = l.source_address
        AND (a.node = '' OR a.node = l.node) AND (a.host = '' OR a.host = l.host)
        AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
),
guess AS (
  SELECT node, source_address, at FROM event WHERE kind = 'failure' AND method IS DISTINCT FROM 'publickey'
  UNION ALL
  SELECT node, source_address, min(at) FROM event WHERE kind = 'failure' AND method = 'publickey'
  GROUP BY node, source_address, "user"
),
counted AS (
  SELECT node, source_address, at, count(*) OVER (
    PARTITION BY node, source_address ORDER BY at RANGE BETWEEN INTERVAL '2 minutes' PRECEDING AND CURRENT ROW) AS failures
  FROM guess
),
burst AS (SELECT * FROM counted WHERE failures >= $failures)
SELECT s.node, s.host, s.source_address, max(s."user") AS "user", max(b.failures) AS failures, min(s.at) AS at
FROM event s JOIN burst b ON b.node = s.node AND b.source_address = s.source_address
WHERE s.kind = 'success' AND s.at >= b.at AND s.at <= b.at + $success::interval
GROUP BY s.node, s.host, s.source_address

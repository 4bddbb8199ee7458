/*
title = "A port is open that never was on such hosts"
every = "10m"
window = "1h"
wait = "90s"
restate = "1d"
sink = "alert"

[parameters]
ephemeral_from = { value = 32768, unit = "port", help = "Ports from here on are drawn at random and do not count." }
rollout_ratio = { value = 0.2, unit = "ratio", help = "When so many hosts of the class, and three at least, have it within the hour, it was rolled out." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "1d"
key = ["node", "host", "protocol", "port"]
summary = "{host}: {program} listens on {protocol} {port}, which no host of {class} did for 14 days"
techniques = ["T1543.002", "T1571"]
guard = "Hosts are compared with those of the same system and machine; ports drawn at random; programs of jobs and containers; loopback; the approved list; a rollout to 20 % of the class (three hosts at least) in the same hour; maintenance. A class that is not known for 14 days is left out."
*/
-- Reads: listener, 1 h and an hour a day of 14 days; host, 1 h.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
class AS (
  SELECT node, host, concat_ws('/', max(os_id), max(os_version), max(product)) AS class
  FROM host WHERE ts >= $from AND ts < $to GROUP BY node, host
),
sized AS (SELECT node, class, count(*) AS hosts FROM class GROUP BY node, class),
now_open AS (
  SELECT l.node, c.class, l.host, l.protocol, l.port, coalesce(l.sha256, l.executable, l.process, '?') AS program,
    max(l.sha256) AS sha256, max(coalesce(l.executable, l.process, 'a program')) AS named
  FROM listener l JOIN class c ON c.node = l.node AND c.host = l.host
  WHERE l.ts >= $from AND l.ts < $to AND l.state <> 'removed' AND l.protocol <> 'all'
    AND l.port < $ephemeral_from AND NOT coalesce(l.loopback, false)
    AND l.job IS NULL AND l.container IS NULL AND l.pod IS NULL AND coalesce(l.no_sha256, '') <> 'pending'
  GROUP BY l.node, c.class, l.host, l.protocol, l.port, coalesce(l.sha256, l.executable, l.process, '?')
),
-- All that listens is told once an hour: the first hour of each day, and whatever was added, is enough.
past AS (
  SELECT node, host, protocol, port, coalesce(sha256, executable, process, '?') AS program, min(ts) AS since FROM listener
  WHERE ts >= $to - INTERVAL '14 days' AND ts < $from
    AND (state IN ('added', 'changed') OR date_part('hour', ts) = 0)
  GROUP BY node, host, protocol, port, coalesce(sha256, executable, process, '?')
),
known AS (
  SELECT DISTINCT p.node, c.class, p.protocol, p.port, p.program
  FROM past p JOIN class c ON c.node = p.node AND c.host = p.host
),
learned AS (
  SELECT c.node, c.class FROM past p JOIN class c ON c.node = p.node AND c.host = p.host
  GROUP BY c.node, c.class HAVING min(p.since) < $to - INTERVAL '13 days'
),
unseen AS (
  SELECT o.* FROM now_open o
  WHERE NOT EXISTS (
      SELECT 1 FROM known k
      WHERE k.node = o.node AND k.class = o.class AND k.protocol = o.protocol AND k.port = o.port AND k.program = o.program)
    AND EXISTS (SELECT 1 FROM learned e WHERE e.node = o.node AND e.class = o.class)
),
rollout AS (
  SELECT u.node, u.class, u.protocol, u.port, u.program FROM unseen u
  JOIN sized z ON z.node = u.node AND z.class = u.class
  GROUP BY u.node, u.class, u.protocol, u.port, u.program
  HAVING count(DISTINCT u.host) >= 3 AND count(DISTINCT u.host) >= $rollout_ratio * max(z.hosts)
)
SELECT u.node, u.host, u.protocol, u.port, u.class, max(u.named) AS program, max(u.sha256) AS sha256
FROM unseen u
WHERE NOT EXISTS (
    SELECT 1 FROM rollout r
    WHERE r.node = u.node AND r.class = u.class AND r.protocol = u.protocol AND r.port = u.port AND r.program = u.program)
  AND NOT EXISTS (
    SELECT 1 FROM approved a
    WHERE a.kind = 'listener' AND a.name = u.port::varchar AND (a.value = '*' OR a.value = u.sha256)
      AND (a.node = '' OR a.node = u.node) AND (a.host = '' OR a.host = u.host)
      AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = u.node AND (q.host = '' OR q.host = u.host))
GROUP BY u.node, u.host, u.protocol, u.port, u.class

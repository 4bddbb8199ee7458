/*
title = "One user goes from host to host"
every = "2m"
window = "10m"
wait = "1m"
restate = "1d"
sink = "alert"

[parameters]
hosts = { value = 10, unit = "1", help = "Hosts that one user came to from one address within the window." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "15m"
key = ["node", "user", "source_address"]
summary = "{user} came from {source_address} to {hosts} hosts within ten minutes and has no job there"
techniques = ["T1021.004"]
guard = "Hosts on which the user holds an allocation do not count (mpirun, srun); where allocations have no user, neither do hosts of one job that holds several of those visited. Bastions and automation are approved as sources, by their address."
*/
-- Reads: login, 10 min; allocation, 75 min.
WITH visit AS (
  SELECT DISTINCT l.node, l.host, l.user, l.source_address FROM login l
  WHERE l.ts >= $from AND l.ts < $to AND l.kind = 'success' AND l.service = 'sshd'
    AND l.user IS NOT NULL AND l.source_address IS NOT NULL
    AND NOT EXISTS (
      SELECT 1 FROM approved a
      WHERE a.kind = 'source' AND a.name = 'ssh' AND a.value = l.source_address
        AND (a.node = '' OR a.node = l.node) AND (a.host = '' OR a.host = l.host)
        AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
),
held AS (
  SELECT DISTINCT node, host, "user", job FROM allocation
  WHERE ts >= $from - INTERVAL '65 minutes' AND ts < $to
    AND (state = 'held' OR (state = 'ended' AND coalesce(ended, ts) > $from))
),
one_job AS (
  SELECT v.node, v.user, v.source_address, h.job
  FROM visit v JOIN held h ON h.node = v.node AND h.host = v.host
  WHERE h.user IS NULL AND h.job IS NOT NULL
  GROUP BY v.node, v.user, v.source_address, h.job HAVING count(DISTINCT v.host) >= 2
),
within_job AS (
  SELECT v.node, v.host, v.user, v.source_address
  FROM visit v JOIN held h ON h.node = v.node AND h.host = v.host AND h.user = v.user
  UNION
  SELECT v.node, v.host, v.user, v.source_address
  FROM visit v
  JOIN held h ON h.node = v.node AND h.host = v.host
  JOIN one_job j ON j.node = v.node AND j.user = v.user AND j.source_address = v.source_address AND j.job = h.job
)
SELECT v.node, '' AS host, v.user, v.source_address, count(DISTINCT v.host) AS hosts, min(v.host) AS first_host
FROM visit v
WHERE NOT EXISTS (
  SELECT 1 FROM within_job w
  WHERE w.node = v.node AND w.host = v.host AND w.user = v.user AND w.source_address = v.source_address)
GROUP BY v.node, v.user, v.source_address
HAVING count(DISTINCT v.host) >= $hosts

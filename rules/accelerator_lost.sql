/*
title = "Accelerator lost"
every = "1m"
window = "1h"
wait = "20s"
sink = "alert"

[parameters]
minutes = { value = 2, unit = "minutes", help = "Not seen for at least so long, on a host that tells of others things." }

[alert]
severity = "critical"
for = "1m"
resolve_after = "1m"
key = ["node", "host", "device"]
summary = "{host}: accelerator {device} ({model}) is gone since {last_seen}"
techniques = []
guard = "The host must report, so a silent host is not this; maintenance; devices the registry has retired or in repair. A card nobody has registered is forgotten after an hour."
inhibited_by = ["host_silent"]
*/
-- Registered devices, and those seen in the last hour; partitions come and go and are not looked at.
-- Reads: accelerator and agent, 1 h.
WITH seen AS (
  SELECT node, host, device, max(model) AS model, max(ts) AS last_seen FROM accelerator
  WHERE ts >= $from AND ts < $to AND parent IS NULL GROUP BY node, host, device
),
registered AS (
  SELECT node, host, device, max(status) AS status FROM registration
  WHERE host <> '' AND device <> '' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $to)
  GROUP BY node, host, device
),
known AS (
  SELECT coalesce(s.node, r.node) AS node, coalesce(s.host, r.host) AS host, coalesce(s.device, r.device) AS device,
    coalesce(s.model, 'model unknown') AS model, s.last_seen
  FROM seen s FULL JOIN registered r ON r.node = s.node AND r.host = s.host AND r.device = s.device
  WHERE coalesce(r.status, 'in_service') IN ('in_service', 'cordoned')
),
alive AS (
  SELECT DISTINCT node, host FROM agent
  WHERE probe = 'all' AND ts >= $to - INTERVAL '1 minute' AND ts < $to
),
quiet AS (
  SELECT node, host FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
)
SELECT k.node, k.host, k.device, k.model, coalesce(k.last_seen::varchar, 'more than an hour ago') AS last_seen
FROM known k JOIN alive a ON a.node = k.node AND a.host = k.host
WHERE (k.last_seen IS NULL OR date_part('epoch', $to) - date_part('epoch', k.last_seen) >= $minutes * 60)
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = k.node AND (q.host = '' OR q.host = k.host))

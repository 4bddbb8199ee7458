/*
title = "Hosts as they are now"
question = "How is each registered host? One row for each. `up`: its agent told something in the last two minutes. `down`: it did not, and all peers that probe it get no answer. `unknown`: it did not, and nobody knows why; such a host is neither idle nor available."

[columns]
node = "Node it is registered with."
host = "The host."
state = "`up`, `down` or `unknown`."
last_seen = "Newest row of its agent; NULL if there is none of the last hour."
age_seconds = "Age of that row."
status = "What the registry says of it: `in_service`, `cordoned`, `repair`."
is_cordoned = "Whether the registry says anything but `in_service`."
in_maintenance = "Whether it, or its node, is being worked on now."
maintenance = "Name of that work."
fabric = "The network on which it computes together with others."
rack = "The rack it stands in."
identifier = "Identifier of the resource."
accelerators = "Accelerators registered on it."
*/
WITH registered AS (
  SELECT node, host,
    coalesce(max(status) FILTER (WHERE device = ''), 'in_service') AS status,
    coalesce(max(fabric) FILTER (WHERE device = ''), max(fabric)) AS fabric,
    coalesce(max(rack) FILTER (WHERE device = ''), max(rack)) AS rack,
    max(identifier) FILTER (WHERE device = '') AS identifier,
    count(*) FILTER (WHERE device <> '' AND status <> 'retired') AS accelerators
  FROM registration
  WHERE host <> '' AND valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
  GROUP BY node, host
),
seen AS (
  SELECT node, host, max(ts) AS last_seen
  FROM agent
  WHERE probe = 'all' AND ts >= now() - INTERVAL '1 hour' AND ts <= now() + INTERVAL '1 minute'
  GROUP BY node, host
),
probed AS (
  SELECT p.to_node AS node, p.to_host AS host, sum(l.received) AS answers, sum(l.lost) AS losses
  FROM link l
  JOIN peer p ON p.node = l.node AND p.peer = l.peer AND (p.host = '' OR p.host = l.host)
  WHERE l.ts >= fresh_since() AND p.to_host IS NOT NULL
    AND p.valid_from <= now() AND (p.valid_to IS NULL OR now() < p.valid_to)
  GROUP BY p.to_node, p.to_host
),
worked_on AS (
  SELECT node, host, min(maintenance) AS maintenance
  FROM maintenance
  WHERE device IS NULL AND starts <= now() AND now() < ends
    AND valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
  GROUP BY node, host
)
SELECT r.node, r.host,
  CASE
    WHEN s.last_seen >= fresh_since() THEN 'up'
    WHEN p.answers = 0 AND p.losses > 0 THEN 'down'
    ELSE 'unknown'
  END AS state,
  s.last_seen,
  date_part('epoch', now()) - date_part('epoch', s.last_seen) AS age_seconds,
  r.status,
  r.status <> 'in_service' AS is_cordoned,
  coalesce(w.maintenance, n.maintenance) IS NOT NULL AS in_maintenance,
  coalesce(w.maintenance, n.maintenance) AS maintenance,
  r.fabric, r.rack, r.identifier, r.accelerators
FROM registered r
LEFT JOIN seen s ON s.node = r.node AND s.host = r.host
LEFT JOIN probed p ON p.node = r.node AND p.host = r.host
LEFT JOIN worked_on w ON w.node = r.node AND w.host = r.host
LEFT JOIN worked_on n ON n.node = r.node AND n.host = ''
WHERE r.status <> 'retired'

/*
title = "Availability of nodes"
question = "How much of a time was a node there? One row for each node with hosts that were reckoned in the hours from `from` to `to`, as the ARGO service reckons: availability is the share of the known time in which hosts were up, reliability the share of the known time outside announced maintenance, and unknown time is neither. Numbers follow late rows: an hour is reckoned anew when rows of it arrive."
[parameters]
from = { type = "timestamp", help = "First hour." }
to = { type = "timestamp", help = "End, exclusive." }

[columns]
region = "Region of the node, as of now."
node = "The node."
hosts = "Hosts that were reckoned."
hours = "Hours that were reckoned; fewer than asked for means that the others are not known."
up_seconds = "Host seconds in which it was up."
down_seconds = "Host seconds in which there is evidence that it was not."
maintenance_seconds = "Host seconds of announced maintenance."
unknown_seconds = "Host seconds of which nobody knows."
availability_ratio = "up / (up + down + maintenance); NULL when nothing is known."
reliability_ratio = "up / (up + down); NULL when nothing is known."
unknown_ratio = "unknown / all."
keeps_to_target = "Whether availability is at least 0.80, reliability 0.85 and unknown at most 0.10, as EGI asks of its sites."
*/
WITH summed AS (
  SELECT node,
    count(DISTINCT host) AS hosts,
    count(DISTINCT ts) AS hours,
    sum(up_seconds) AS up,
    sum(down_seconds) AS down,
    sum(maintenance_seconds) AS maintenance,
    sum(unknown_seconds) AS unknown
  FROM availability_1h
  WHERE ts >= $from AND ts < $to
  GROUP BY node
),
reckoned AS (
  SELECT *,
    CAST(up AS DOUBLE PRECISION) / nullif(up + down + maintenance, 0) AS availability,
    CAST(up AS DOUBLE PRECISION) / nullif(up + down, 0) AS reliability,
    CAST(unknown AS DOUBLE PRECISION) / nullif(up + down + maintenance + unknown, 0) AS unknown_ratio
  FROM summed
)
SELECT n.region, r.node, r.hosts, r.hours,
  r.up AS up_seconds,
  r.down AS down_seconds,
  r.maintenance AS maintenance_seconds,
  r.unknown AS unknown_seconds,
  r.availability AS availability_ratio,
  r.reliability AS reliability_ratio,
  r.unknown_ratio,
  r.availability >= 0.8 AND r.reliability >= 0.85 AND r.unknown_ratio <= 0.1 AS keeps_to_target
FROM reckoned r
LEFT JOIN node n ON n.node = r.node AND n.valid_from <= now() AND (n.valid_to IS NULL OR now() < n.valid_to)

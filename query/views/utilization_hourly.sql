/*
title = "Utilisation by the hour"
question = "How much of a node is used? One row for each node and hour, of the last seven days unless said otherwise. Four meanings, kept apart: allocated (somebody holds it), busy (the driver says that something ran), busy while allocated, and core active (how much of the device worked). They are shares of what reported; what did not is `unknown_ratio`, and no ratio counts it as idle. A device-hour of which a part was held counts for that part with the mean of the hour. An hour is there a minute after its end."
[parameters]
from = { type = "timestamp", optional = true, help = "First hour; seven days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End, exclusive; now if it is left out." }

[columns]
ts = "Begin of the hour."
node = "The node."
registered_accelerators = "Accelerators registered when the hour began."
known_accelerators = "Those of them that reported in it."
unknown_ratio = "Share that did not."
allocated_ratio = "Share of the time of those that reported in which somebody held them."
busy_ratio = "Share of time in which something ran on them, by the driver."
busy_when_allocated_ratio = "The same, of the time in which they were held; NULL when none was."
core_active_ratio = "Share of multiprocessors or cores with work; NULL where nobody tells."
*/
WITH hour AS (
  SELECT ts, node, host, device,
    coalesce(utilization_mean_ratio_mean, utilization_ratio_mean) AS busy,
    CASE WHEN utilization_mean_ratio_mean IS NOT NULL THEN utilization_mean_ratio_count
      ELSE utilization_ratio_count END AS busy_count,
    core_active_ratio_mean AS core,
    core_active_ratio_count AS core_count
  FROM accelerator_1h
  WHERE ts >= coalesce($from, now() - INTERVAL '7 days') AND ts < coalesce($to, now()) AND parent IS NULL
),
registered AS (
  SELECT node, host, device, valid_from, valid_to
  FROM registration
  WHERE device <> '' AND status <> 'retired'
),
grid AS (
  SELECT h.ts, r.node, count(*) AS registered
  FROM (SELECT DISTINCT ts FROM hour) h
  JOIN registered r ON r.valid_from <= h.ts AND (r.valid_to IS NULL OR h.ts < r.valid_to)
  GROUP BY h.ts, r.node
),
known AS (
  SELECT h.*
  FROM hour h
  JOIN registered r ON r.node = h.node AND r.host = h.host AND r.device = h.device
    AND r.valid_from <= h.ts AND (r.valid_to IS NULL OR h.ts < r.valid_to)
),
held AS (
  SELECT k.ts, k.node, k.host, k.device,
    sum(date_part('epoch', least(s.ended, k.ts + INTERVAL '1 hour')) - date_part('epoch', greatest(s.began, k.ts)))
      AS seconds
  FROM known k
  JOIN held_span s ON s.node = k.node AND s.host = k.host AND s.device = k.device
    AND s.began < k.ts + INTERVAL '1 hour' AND s.ended > k.ts
  GROUP BY k.ts, k.node, k.host, k.device
),
used AS (
  SELECT k.ts, k.node,
    count(*) AS known,
    sum(coalesce(h.seconds, 0.0)) / (3600.0 * count(*)) AS allocated,
    sum(k.busy * k.busy_count) / nullif(sum(k.busy_count) FILTER (WHERE k.busy IS NOT NULL), 0) AS busy,
    sum(k.busy * h.seconds) / nullif(sum(h.seconds) FILTER (WHERE k.busy IS NOT NULL), 0.0) AS busy_when_allocated,
    sum(k.core * k.core_count) / nullif(sum(k.core_count) FILTER (WHERE k.core IS NOT NULL), 0) AS core
  FROM known k
  LEFT JOIN held h ON h.ts = k.ts AND h.node = k.node AND h.host = k.host AND h.device = k.device
  GROUP BY k.ts, k.node
)
SELECT g.ts, g.node,
  g.registered AS registered_accelerators,
  coalesce(u.known, 0) AS known_accelerators,
  1.0 - CAST(coalesce(u.known, 0) AS DOUBLE PRECISION) / g.registered AS unknown_ratio,
  u.allocated AS allocated_ratio,
  u.busy AS busy_ratio,
  u.busy_when_allocated AS busy_when_allocated_ratio,
  u.core AS core_active_ratio
FROM grid g
LEFT JOIN used u ON u.ts = g.ts AND u.node = g.node

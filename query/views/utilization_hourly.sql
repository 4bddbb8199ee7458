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
used AS (
  SELECT ts, node,
    count(*) AS known,
    sum(busy * busy_count) / nullif(sum(busy_count) FILTER (WHERE busy IS NOT NULL), 0) AS busy,
    sum(core * core_count) / nullif(sum(core_count) FILTER (WHERE core IS NOT NULL), 0) AS core
  FROM known
  GROUP BY ts, node
),
-- The times of one device do not overlap, so that each part of an hour can be added up by itself.
part AS (
  SELECT k.ts, k.node, k.busy,
    (CAST(least(s.ended, k.ts + INTERVAL '1 hour') AS BIGINT) - CAST(greatest(s.began, k.ts) AS BIGINT)) / 1e6
      AS seconds
  FROM known k
  JOIN held_span(coalesce($from, now() - INTERVAL '7 days')) s
    ON s.node = k.node AND s.host = k.host AND s.device = k.device
    AND s.began < k.ts + INTERVAL '1 hour' AND s.ended > k.ts
),
held AS (
  SELECT ts, node,
    sum(seconds) AS seconds,
    sum(busy * seconds) / nullif(sum(seconds) FILTER (WHERE busy IS NOT NULL), 0.0) AS busy
  FROM part
  GROUP BY ts, node
)
SELECT g.ts, g.node,
  g.registered AS registered_accelerators,
  coalesce(u.known, 0) AS known_accelerators,
  1.0 - CAST(coalesce(u.known, 0) AS DOUBLE PRECISION) / g.registered AS unknown_ratio,
  CASE WHEN u.known > 0 THEN coalesce(h.seconds, 0.0) / (3600.0 * u.known) END AS allocated_ratio,
  u.busy AS busy_ratio,
  h.busy AS busy_when_allocated_ratio,
  u.core AS core_active_ratio
FROM grid g
LEFT JOIN used u ON u.ts = g.ts AND u.node = g.node
LEFT JOIN held h ON h.ts = g.ts AND h.node = g.node

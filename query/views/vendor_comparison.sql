/*
title = "The same work on accelerators of different vendors"
question = "How do accelerators of different vendors do at the same project's work? One row for each project and vendor, with `vendors` to choose those projects that used more than one. Utilisation, core activity and energy are of the hours in which the project held the accelerator, an hour that it held in part counting in part; the three meanings of use stand beside each other. Accelerators held by nobody's project stand under NULL. As fresh as `accelerator_1h` and `allocation`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 7 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
project = "Project or account; NULL where nobody told."
vendor = "Vendor."
vendors = "Vendors that the project used."
accelerators = "Accelerators that it held."
accelerator_hours = "Hours that it held them and they reported."
utilization_ratio = "Share of that time in which something ran, by the driver: busy while allocated."
core_active_ratio = "Share of the cores that worked."
tensor_active_ratio = "Share of the time in which matrix units worked."
energy_kwh = "Energy of accelerators that count it."
kwh_per_accelerator_hour = "The same for one of their hours."
failures = "Failures while it held them, by `accelerator_failure`; the one that ended it, too."
failures_per_1000_days = "The same for 1,000 accelerator-days."
failures_low = "Lower end of the 95 % interval."
failures_high = "Upper end of it."
*/
WITH holding AS (
  SELECT node, host, device, project, began AS held_since,
    GREATEST(began, COALESCE($from, now() - INTERVAL '7 days')) AS began,
    LEAST(ended, COALESCE($to, now())) AS ended
  FROM held_by_project
  WHERE ended > COALESCE($from, now() - INTERVAL '7 days') AND began < COALESCE($to, now())
),
hour AS (
  SELECT node, host, device, ts, vendor, utilization_ratio_mean, core_active_ratio_mean, tensor_active_ratio_mean,
    energy_joules_increase,
    COALESCE(LEAST(1.0, CAST(samples AS DOUBLE) / NULLIF(expected, 0)), 1.0) AS observed
  FROM accelerator_1h
  WHERE ts >= date_bin(INTERVAL '1 hour', COALESCE($from, now() - INTERVAL '7 days'))
    AND ts < COALESCE($to, now()) AND parent IS NULL
),
part AS (
  SELECT h.node, h.host, h.device, p.project, h.vendor, h.utilization_ratio_mean AS utilization,
    h.core_active_ratio_mean AS core_active, h.tensor_active_ratio_mean AS tensor_active,
    h.energy_joules_increase AS joules,
    (CAST(LEAST(p.ended, h.ts + INTERVAL '1 hour') AS BIGINT) - CAST(GREATEST(p.began, h.ts) AS BIGINT)) / 3.6e9
      AS overlap,
    h.observed
  FROM holding p
  JOIN hour h ON h.node = p.node AND h.host = p.host AND h.device = p.device
    AND p.began < h.ts + INTERVAL '1 hour' AND p.ended > h.ts
),
used AS (
  SELECT project, vendor,
    COUNT(DISTINCT device) AS accelerators,
    SUM(overlap * observed) AS hours,
    SUM(utilization * overlap * observed)
      / NULLIF(SUM(CASE WHEN utilization IS NOT NULL THEN overlap * observed END), 0) AS utilization,
    SUM(core_active * overlap * observed)
      / NULLIF(SUM(CASE WHEN core_active IS NOT NULL THEN overlap * observed END), 0) AS core_active,
    SUM(tensor_active * overlap * observed)
      / NULLIF(SUM(CASE WHEN tensor_active IS NOT NULL THEN overlap * observed END), 0) AS tensor_active,
    SUM(joules * overlap) / 3.6e6 AS kwh,
    SUM(CASE WHEN joules IS NOT NULL THEN overlap * observed END) AS counted_hours
  FROM part
  GROUP BY project, vendor
),
failed AS (
  SELECT p.project, f.vendor, COUNT(*) AS failures
  FROM accelerator_failure(COALESCE($from, now() - INTERVAL '7 days'), COALESCE($to, now())) f
  -- What ends a holding is its own, and not that of who comes next.
  JOIN holding p ON p.node = f.node AND p.host = f.host AND p.device = f.device AND f.at > p.held_since AND f.at <= p.ended
  WHERE f.is_first
  GROUP BY p.project, f.vendor
)
SELECT u.project, u.vendor,
  COUNT(*) OVER (PARTITION BY u.project) AS vendors,
  u.accelerators, u.hours AS accelerator_hours,
  u.utilization AS utilization_ratio, u.core_active AS core_active_ratio, u.tensor_active AS tensor_active_ratio,
  u.kwh AS energy_kwh,
  u.kwh / NULLIF(u.counted_hours, 0) AS kwh_per_accelerator_hour,
  COALESCE(f.failures, 0) AS failures,
  24000.0 * COALESCE(f.failures, 0) / NULLIF(u.hours, 0) AS failures_per_1000_days,
  24000.0 * COALESCE(p.low, f.failures
    * POWER(1.0 - 1.0 / (9.0 * f.failures) - 1.959963984540054 / (3.0 * SQRT(f.failures)), 3)) / NULLIF(u.hours, 0)
    AS failures_low,
  24000.0 * COALESCE(p.high, (f.failures + 1)
    * POWER(1.0 - 1.0 / (9.0 * (f.failures + 1)) + 1.959963984540054 / (3.0 * SQRT(f.failures + 1)), 3))
    / NULLIF(u.hours, 0) AS failures_high
FROM used u
LEFT JOIN failed f ON (f.project IS NOT DISTINCT FROM u.project) AND (f.vendor IS NOT DISTINCT FROM u.vendor)
LEFT JOIN poisson_interval p ON p.count = COALESCE(f.failures, 0)
ORDER BY vendors DESC, u.project, u.vendor

/*
title = "Hours with lower clocks"
question = "How many accelerator-hours ran with lower clocks, by rack and reason? Three rows for each node and rack: `thermal` (heat, as driver or hardware decided), `power` (the limit, or the supply asked for it) and `other` (cards that run in step). Counted by the devices themselves, in seconds; reasons may hold at once, so that they do not add up. The rack is that of the registry in the hour. As fresh as `accelerator_1h`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 7 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
node = "Node."
rack = "Rack, by the registry; NULL where it names none."
reason = "`thermal`, `power` or `other`."
throttled_hours = "Hours with lower clocks for this reason; NULL where no device counts it."
accelerator_hours = "Hours that the rack's accelerators were seen for."
counted_hours = "Of them, hours of devices that count this reason."
throttled_ratio = "Throttled hours for one of those that are counted."
hosts = "Hosts of the rack that were seen."
*/
WITH hour AS (
  SELECT node, host, ts, SUM(observed) AS hours,
    SUM(thermal) AS thermal, SUM(CASE WHEN thermal IS NOT NULL THEN observed END) AS thermal_hours,
    SUM(power) AS power, SUM(CASE WHEN power IS NOT NULL THEN observed END) AS power_hours,
    SUM(other) AS other, SUM(CASE WHEN other IS NOT NULL THEN observed END) AS other_hours
  FROM (
    SELECT node, host, ts,
      COALESCE(LEAST(1.0, CAST(samples AS DOUBLE) / NULLIF(expected, 0)), 1.0) AS observed,
      CASE WHEN COALESCE(throttle_software_thermal_seconds_increase, throttle_hardware_thermal_seconds_increase)
          IS NOT NULL
        THEN COALESCE(throttle_software_thermal_seconds_increase, 0.0)
          + COALESCE(throttle_hardware_thermal_seconds_increase, 0.0)
      END AS thermal,
      CASE WHEN COALESCE(throttle_power_cap_seconds_increase, throttle_power_brake_seconds_increase) IS NOT NULL
        THEN COALESCE(throttle_power_cap_seconds_increase, 0.0) + COALESCE(throttle_power_brake_seconds_increase, 0.0)
      END AS power,
      throttle_sync_boost_seconds_increase AS other
    FROM accelerator_1h
    WHERE ts >= COALESCE($from, now() - INTERVAL '7 days') AND ts < COALESCE($to, now()) AND parent IS NULL
  )
  GROUP BY node, host, ts
),
-- A host has one rack at a time; one entry of its accelerators is as good as that of the host.
place AS (
  SELECT node, host, valid_from, valid_to, MAX(rack) AS rack
  FROM registration
  GROUP BY node, host, valid_from, valid_to
),
placed AS (
  SELECT h.*, p.rack,
    ROW_NUMBER() OVER (
      PARTITION BY h.node, h.host, h.ts ORDER BY p.rack IS NULL, p.valid_from DESC NULLS LAST, p.valid_to DESC
    ) AS choice
  FROM hour h
  LEFT JOIN place p ON p.node = h.node AND p.host = h.host
    AND h.ts >= p.valid_from AND (p.valid_to IS NULL OR h.ts < p.valid_to)
),
racked AS (
  SELECT node, rack, COUNT(DISTINCT host) AS hosts, SUM(hours) AS hours,
    SUM(thermal) AS thermal, SUM(thermal_hours) AS thermal_hours,
    SUM(power) AS power, SUM(power_hours) AS power_hours,
    SUM(other) AS other, SUM(other_hours) AS other_hours
  FROM placed
  WHERE choice = 1
  GROUP BY node, rack
),
line AS (
  SELECT r.node, r.rack, r.hosts, r.hours, reason.reason,
    CASE reason.reason WHEN 'thermal' THEN thermal WHEN 'power' THEN power ELSE other END AS seconds,
    CASE reason.reason WHEN 'thermal' THEN thermal_hours WHEN 'power' THEN power_hours ELSE other_hours END AS counted
  FROM racked r
  CROSS JOIN (SELECT column1 AS reason FROM (VALUES ('thermal'), ('power'), ('other'))) reason
)
SELECT node, rack, reason,
  seconds / 3600.0 AS throttled_hours,
  hours AS accelerator_hours,
  COALESCE(counted, 0.0) AS counted_hours,
  seconds / 3600.0 / NULLIF(counted, 0) AS throttled_ratio,
  hosts
FROM line
ORDER BY node, rack, reason

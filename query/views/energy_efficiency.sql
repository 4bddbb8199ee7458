/*
title = "Energy of what was computed"
question = "How many kilowatt-hours does a delivered PFLOP-hour cost, and what is the PUE? One row for each node, vendor and model, and one for each node as a whole (vendor and model NULL). Delivered is what the cores worked: registered nominal dense operations a second, times the share of cores that had work, times the time seen. Energy is the growth of energy counters, never a mean of power. Devices whose energy, core activity or registered figure is unknown are left out on both sides, and `known_ratio` says how much of the time is in the figure. As fresh as `accelerator_1h`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 7 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
precision = { value = "fp16", help = "Precision of the operations counted; figures of different precisions are never added." }
[columns]
node = "Node."
vendor = "Vendor; NULL for the node as a whole."
model = "Model; NULL for the node as a whole."
precision = "Precision of the operations, dense."
accelerator_hours = "Hours accelerators were seen for."
known_ratio = "Share of them for which energy, core activity and the registered figure are known."
accelerator_kwh = "Energy of the accelerators, as far as told."
delivered_pflop_hours = "10^15 operations a second for an hour, delivered."
kwh_per_pflop_hour = "Energy of accelerators for one of them; NULL where nothing was delivered or known."
it_kwh = "Energy of all machines, by the meter `meter/it`; NULL without one."
facility_kwh = "Energy of the whole site, by the meter `meter/facility`; NULL without one."
pue = "Energy of the site for one of the machines'; NULL without both meters."
facility_kwh_per_pflop_hour = "Energy of the whole site for a delivered PFLOP-hour, in the row of the node; NULL where known_ratio is below 0.99."
*/
WITH hour AS (
  SELECT node, vendor, model, ts,
    SUM(observed) AS hours,
    SUM(energy_joules_increase) AS joules,
    SUM(CASE WHEN energy_joules_increase IS NOT NULL AND core_active_ratio_mean IS NOT NULL THEN observed END)
      AS known_hours,
    SUM(CASE WHEN core_active_ratio_mean IS NOT NULL THEN energy_joules_increase END) AS known_joules,
    SUM(CASE WHEN energy_joules_increase IS NOT NULL THEN core_active_ratio_mean * observed END) AS active_hours
  FROM (
    SELECT node, vendor, model, ts, energy_joules_increase, core_active_ratio_mean,
      COALESCE(LEAST(1.0, CAST(samples AS DOUBLE) / NULLIF(expected, 0)), 1.0) AS observed
    FROM accelerator_1h
    WHERE ts >= COALESCE($from, now() - INTERVAL '7 days') AND ts < COALESCE($to, now()) AND parent IS NULL
  )
  GROUP BY node, vendor, model, ts
),
figure AS (
  SELECT node, vendor, model, valid_from, valid_to, MAX(device_flops) AS flops
  FROM resource
  WHERE precision = $precision AND sparsity = 'dense' AND basis = 'nominal'
  GROUP BY node, vendor, model, valid_from, valid_to
),
-- One figure for an hour: of several entries of a model the newest, and of those the largest.
told AS (
  SELECT h.node, h.vendor, h.model, h.ts, h.hours, h.joules, h.known_hours, h.known_joules, h.active_hours, f.flops,
    ROW_NUMBER() OVER (
      PARTITION BY h.node, h.vendor, h.model, h.ts ORDER BY f.valid_from DESC NULLS LAST, f.flops DESC NULLS LAST
    ) AS choice
  FROM hour h
  LEFT JOIN figure f ON f.node = h.node AND f.vendor = h.vendor AND f.model = h.model
    AND h.ts >= f.valid_from AND (f.valid_to IS NULL OR h.ts < f.valid_to)
),
model AS (
  SELECT node, vendor, model,
    SUM(hours) AS hours,
    SUM(joules) AS joules,
    SUM(CASE WHEN flops IS NOT NULL THEN known_hours END) AS known_hours,
    SUM(CASE WHEN flops IS NOT NULL THEN known_joules END) AS known_joules,
    SUM(active_hours * flops) / 1e15 AS delivered
  FROM told
  WHERE choice = 1
  GROUP BY node, vendor, model
),
line AS (
  SELECT node, vendor, model, false AS is_node, hours, joules, known_hours, known_joules, delivered FROM model
  UNION ALL
  SELECT node, NULL, NULL, true, SUM(hours), SUM(joules), SUM(known_hours), SUM(known_joules), SUM(delivered)
  FROM model GROUP BY node
),
meter AS (
  SELECT node,
    SUM(CASE WHEN name = 'meter/it' THEN energy_joules_increase END) / 3.6e6 AS it_kwh,
    SUM(CASE WHEN name = 'meter/facility' THEN energy_joules_increase END) / 3.6e6 AS facility_kwh
  FROM sensor_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '7 days') AND ts < COALESCE($to, now()) AND name IN ('meter/it', 'meter/facility')
  GROUP BY node
)
SELECT l.node, l.vendor, l.model, $precision AS precision,
  l.hours AS accelerator_hours,
  COALESCE(l.known_hours, 0.0) / NULLIF(l.hours, 0) AS known_ratio,
  l.joules / 3.6e6 AS accelerator_kwh,
  l.delivered AS delivered_pflop_hours,
  l.known_joules / 3.6e6 / NULLIF(l.delivered, 0) AS kwh_per_pflop_hour,
  m.it_kwh, m.facility_kwh,
  m.facility_kwh / NULLIF(m.it_kwh, 0) AS pue,
  CASE WHEN l.is_node AND l.known_hours >= 0.99 * l.hours THEN m.facility_kwh / NULLIF(l.delivered, 0) END
    AS facility_kwh_per_pflop_hour
FROM line l
LEFT JOIN meter m ON m.node = l.node
ORDER BY l.node, l.is_node DESC, l.vendor, l.model

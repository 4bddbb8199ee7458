/*
title = "Demand that finds no accelerators"
question = "How many accelerator-hours wait, and how many were free, by class of work and hour? One row for each node, scheduler, class and hour. Free are the hours of accelerators that fit what the class asks for, that reported, were in service by the registry and were held by nobody; several classes may look at the same free hours, so they do not add up over classes. As fresh as `demand` and `accelerator_1h`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; a day ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
hour = "Begin of the hour."
node = "Node."
scheduler = "The scheduler."
class = "Class of work: a partition, a queue, a priority."
vendor = "Vendor asked for; NULL for any."
model = "Model asked for; NULL for any."
pending_accelerator_hours = "Accelerators that waiting jobs asked for, on average over the hour: what would have been used of it."
running_accelerator_hours = "Accelerators that running jobs held, on average over the hour."
backlog_accelerator_hours = "Accelerators times hours asked for by what waited at the end of the hour."
oldest_wait_seconds = "How long the oldest had waited, at most."
fitting_accelerator_hours = "Hours that accelerators reported which fit and are in service; NULL where none reported."
held_accelerator_hours = "Of them, hours that they were held."
free_accelerator_hours = "Of them, hours that they were free."
gap_accelerator_hours = "What waited less what was free: above zero is demand that capacity cannot meet, below zero is capacity that stood idle, and a wait beside free hours is one of fit."
*/
WITH hour AS (
  SELECT node, host, device, ts, vendor, model, observed_ratio AS observed
  FROM service_hour
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now())
),
held AS (
  SELECT h.node, h.host, h.device, h.ts,
    SUM(CAST(LEAST(s.ended, h.ts + INTERVAL '1 hour') AS BIGINT) - CAST(GREATEST(s.began, h.ts) AS BIGINT)) / 3.6e9
      AS held
  FROM hour h
  JOIN held_span(COALESCE($from, now() - INTERVAL '1 day')) s ON s.node = h.node AND s.host = h.host AND s.device = h.device
    AND s.began < h.ts + INTERVAL '1 hour' AND s.ended > h.ts
  GROUP BY h.node, h.host, h.device, h.ts
),
supply AS (
  SELECT hour.node, hour.ts, hour.vendor, hour.model,
    SUM(hour.observed) AS fitting,
    SUM(LEAST(hour.observed, COALESCE(held.held, 0.0))) AS held
  FROM hour
  LEFT JOIN held ON held.node = hour.node AND held.host = hour.host AND held.device = hour.device
    AND held.ts = hour.ts
  GROUP BY hour.node, hour.ts, hour.vendor, hour.model
),
wanted AS (
  SELECT node, date_bin(INTERVAL '1 hour', ts) AS ts, scheduler, class, MAX(vendor) AS vendor, MAX(model) AS model,
    AVG(accelerators_pending) AS pending, AVG(accelerators_running) AS running,
    last(accelerator_hours_pending, ts) AS backlog, MAX(oldest_wait_seconds) AS oldest
  FROM demand
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now())
  GROUP BY node, date_bin(INTERVAL '1 hour', ts), scheduler, class
)
SELECT w.ts AS hour, w.node, w.scheduler, w.class, w.vendor, w.model,
  w.pending AS pending_accelerator_hours,
  w.running AS running_accelerator_hours,
  w.backlog AS backlog_accelerator_hours,
  w.oldest AS oldest_wait_seconds,
  SUM(s.fitting) AS fitting_accelerator_hours,
  SUM(s.held) AS held_accelerator_hours,
  SUM(s.fitting) - SUM(s.held) AS free_accelerator_hours,
  w.pending - (SUM(s.fitting) - SUM(s.held)) AS gap_accelerator_hours
FROM wanted w
LEFT JOIN supply s ON s.node = w.node AND s.ts = w.ts
  AND (w.vendor IS NULL OR s.vendor = w.vendor) AND (w.model IS NULL OR s.model = w.model)
GROUP BY w.ts, w.node, w.scheduler, w.class, w.vendor, w.model, w.pending, w.running, w.backlog, w.oldest
ORDER BY w.ts, w.node, w.scheduler, w.class

/*
title = "Accelerators as they are now"
question = "How is each accelerator? One row for each whole card that is registered or reports. What it says is its newest row of the last two minutes; without one its state is `unknown`, and it counts neither as idle nor as available."

[columns]
node = "Node of the host."
host = "The host."
device = "The accelerator, as in `accelerator.device`."
state = "`unknown` (no row of the last two minutes), `unregistered`, `allocated`, `cordoned` (by the registry, with its host or alone), `maintenance`, `unhealthy`, `free`: the first that holds."
is_registered = "Whether it is registered, and not as retired."
is_fresh = "Whether it has a row of the last two minutes."
is_in_service = "Whether the registry has it and its host in service, and nobody works on them."
is_healthy = "Whether nothing is wrong with it: no row of memory that could not be replaced, no page or row that waits for a reset, no uncorrected error since the driver was loaded. NULL when it is not fresh."
is_allocated = "Whether somebody holds it, by any source. NULL when it is not fresh."
last_seen = "Newest row; of the last two minutes, or the newest of its host's agent when it has none."
age_seconds = "Age of that row; NULL beyond an hour."
vendor = "Who made it; of the last day if it is not fresh, NULL if it has been silent for longer."
model = "Its model, as `vendor`."
fabric = "The network on which its host computes together with others."
rack = "The rack it stands in."
identifier = "Identifier of the resource."
allocation = "Allocation that holds it; one of them where there are several."
job = "Job that holds it."
user = "Whose that is, by the prolog's word."
project = "Project it is charged to, by the prolog's word."
utilization_ratio = "Share of time in which something ran on it, by the driver."
core_active_ratio = "Share of its multiprocessors or cores with work."
memory_used_bytes = "Memory given to programs."
memory_total_bytes = "Memory on it."
power_watts = "Power it draws."
temperature_celsius = "Temperature of the chip."
trouble = "What is wrong with it, in a word; NULL if nothing is."
*/
WITH fresh AS (
  SELECT node, host, device,
    max(ts) AS last_seen,
    last(vendor, ts) AS vendor,
    last(model, ts) AS model,
    last(coalesce(utilization_mean_ratio, utilization_ratio), ts) AS utilization_ratio,
    last(core_active_ratio, ts) AS core_active_ratio,
    last(memory_used_bytes, ts) AS memory_used_bytes,
    last(memory_total_bytes, ts) AS memory_total_bytes,
    last(power_watts, ts) AS power_watts,
    last(temperature_celsius, ts) AS temperature_celsius,
    last(
      CASE
        WHEN remapped_rows_failed THEN 'row_remap_failed'
        WHEN remapped_rows_pending THEN 'row_remap_pending'
        WHEN retired_pages_pending THEN 'page_retirement_pending'
        WHEN ecc_uncorrected_volatile > 0 THEN 'uncorrected_memory_error'
        WHEN health = 'failed' THEN 'vendor_check_failed'
        WHEN recovery_action <> 'none' THEN 'reset_needed'
        ELSE ''
      END, ts) AS trouble
  FROM accelerator
  WHERE ts >= fresh_since() AND ts <= now() + INTERVAL '1 minute' AND parent IS NULL
  GROUP BY node, host, device
),
earlier AS (
  SELECT node, host, device, last(vendor, ts) AS vendor, last(model, ts) AS model
  FROM accelerator_1h
  WHERE ts >= now() - INTERVAL '1 day' AND parent IS NULL
  GROUP BY node, host, device
),
registered AS (
  SELECT r.node, r.host, r.device, r.identifier, r.status, coalesce(h.fabric, r.fabric) AS fabric,
    coalesce(h.rack, r.rack) AS rack, coalesce(h.is_cordoned, true) AS host_is_cordoned,
    coalesce(h.in_maintenance, false) AS host_in_maintenance, h.last_seen AS host_seen
  FROM registration r
  LEFT JOIN host_now h ON h.node = r.node AND h.host = r.host
  WHERE r.device <> '' AND r.status <> 'retired'
    AND r.valid_from <= now() AND (r.valid_to IS NULL OR now() < r.valid_to)
),
held AS (
  SELECT node, host, device, min(allocation) AS allocation, min(job) AS job, min("user") AS "user",
    min(project) AS project
  FROM allocation_now
  GROUP BY node, host, device
),
worked_on AS (
  SELECT DISTINCT node, host, device
  FROM maintenance
  WHERE device IS NOT NULL AND starts <= now() AND now() < ends
    AND valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
),
-- Both sides under one another and folded, rather than joined in full, so that filters reach their tables.
told AS (
  SELECT node, host, device, true AS is_registered, false AS is_fresh,
    status = 'in_service' AND NOT host_is_cordoned AS is_offered, host_in_maintenance, host_seen, fabric, rack, identifier,
    NULL AS last_seen, NULL AS vendor, NULL AS model, NULL AS utilization_ratio, NULL AS core_active_ratio,
    NULL AS memory_used_bytes, NULL AS memory_total_bytes, NULL AS power_watts, NULL AS temperature_celsius,
    NULL AS trouble
  FROM registered
  UNION ALL
  SELECT node, host, device, false, true, NULL, NULL, NULL, NULL, NULL, NULL, last_seen, vendor, model,
    utilization_ratio, core_active_ratio, memory_used_bytes, memory_total_bytes, power_watts, temperature_celsius,
    trouble
  FROM fresh
),
known AS (
  SELECT node, host, device,
    bool_or(is_registered) AS is_registered,
    bool_or(is_fresh) AS is_fresh,
    bool_or(is_offered) AS is_offered,
    bool_or(host_in_maintenance) AS host_in_maintenance,
    max(host_seen) AS host_seen,
    max(fabric) AS fabric,
    max(rack) AS rack,
    max(identifier) AS identifier,
    max(last_seen) AS last_seen,
    max(vendor) AS vendor,
    max(model) AS model,
    max(utilization_ratio) AS utilization_ratio,
    max(core_active_ratio) AS core_active_ratio,
    max(memory_used_bytes) AS memory_used_bytes,
    max(memory_total_bytes) AS memory_total_bytes,
    max(power_watts) AS power_watts,
    max(temperature_celsius) AS temperature_celsius,
    nullif(max(trouble), '') AS trouble
  FROM told
  GROUP BY node, host, device
),
judged AS (
  SELECT k.*,
    k.is_offered AND NOT k.host_in_maintenance AND w.device IS NULL AS is_in_service,
    k.host_in_maintenance OR w.device IS NOT NULL AS in_maintenance,
    CASE WHEN k.is_fresh THEN k.trouble IS NULL END AS is_healthy,
    CASE WHEN k.is_fresh THEN h.device IS NOT NULL END AS is_allocated,
    h.allocation, h.job, h."user", h.project
  FROM known k
  LEFT JOIN held h ON h.node = k.node AND h.host = k.host AND h.device = k.device
  LEFT JOIN worked_on w ON w.node = k.node AND w.host = k.host AND w.device = k.device
)
SELECT j.node, j.host, j.device,
  CASE
    WHEN NOT is_fresh THEN 'unknown'
    WHEN NOT is_registered THEN 'unregistered'
    WHEN is_allocated THEN 'allocated'
    WHEN NOT is_offered THEN 'cordoned'
    WHEN in_maintenance THEN 'maintenance'
    WHEN NOT is_healthy THEN 'unhealthy'
    ELSE 'free'
  END AS state,
  is_registered, is_fresh, coalesce(is_in_service, false) AS is_in_service, is_healthy, is_allocated,
  coalesce(last_seen, host_seen) AS last_seen,
  date_part('epoch', now()) - date_part('epoch', coalesce(last_seen, host_seen)) AS age_seconds,
  coalesce(j.vendor, e.vendor) AS vendor,
  coalesce(j.model, e.model) AS model,
  fabric, rack, identifier,
  CASE WHEN is_fresh THEN allocation END AS allocation,
  CASE WHEN is_fresh THEN job END AS job,
  CASE WHEN is_fresh THEN "user" END AS "user",
  CASE WHEN is_fresh THEN project END AS project,
  utilization_ratio, core_active_ratio, memory_used_bytes, memory_total_bytes, power_watts, temperature_celsius,
  trouble
FROM judged j
LEFT JOIN earlier e ON NOT j.is_fresh AND e.node = j.node AND e.host = j.host AND e.device = j.device

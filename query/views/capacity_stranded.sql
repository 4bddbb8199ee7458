/*
title = "Stranded capacity"
question = "Which accelerators does nobody hold, and nobody can have, and why? One row for each node, vendor, model and cause; an accelerator has one cause, the first that holds in this order: `unreachable` (it does not report), `cordoned`, `maintenance`, `unhealthy`, `bad_nic` (an RDMA port of its host is down), `no_memory` (less than a tenth of its host's memory is left, or of its own while nobody holds it), `fragment` (its host has fewer than 8 free, or fewer than all if it has less). As of the last two minutes."

[columns]
region = "Region of the node."
industry = "Industry the node serves."
node = "The node."
vendor = "Vendor; NULL for accelerators that do not report."
model = "Model, as `vendor`."
cause = "Why they cannot be had."
devices = "Accelerators."
hosts = "Hosts they are on."
dense_fp16_flops = "Their nominal operations a second at FP16, dense; NULL where none is registered."
*/
WITH card AS (
  SELECT a.node, a.host, a.vendor, a.model,
    CASE
      WHEN a.state = 'unknown' THEN 'unreachable'
      WHEN a.state IN ('cordoned', 'maintenance', 'unhealthy') THEN a.state
      WHEN h.has_bad_nic THEN 'bad_nic'
      WHEN h.lacks_memory OR a.memory_used_bytes > 0.9 * a.memory_total_bytes THEN 'no_memory'
      WHEN h.free_accelerators < least(h.accelerators, 8) THEN 'fragment'
    END AS cause
  FROM accelerator_now a
  LEFT JOIN host_fit h ON h.node = a.node AND h.host = a.host
  WHERE a.is_registered AND a.state <> 'allocated'
),
stranded AS (
  SELECT node, vendor, model, cause, count(*) AS devices, count(DISTINCT host) AS hosts
  FROM card
  WHERE cause IS NOT NULL
  GROUP BY node, vendor, model, cause
),
figure AS (
  SELECT node, vendor, model,
    sum(CAST(devices AS DOUBLE PRECISION) * device_flops) / nullif(sum(devices), 0) AS flops
  FROM resource
  WHERE precision = 'fp16' AND sparsity = 'dense' AND basis = 'nominal'
    AND valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
  GROUP BY node, vendor, model
)
SELECT n.region, n.industry, s.node, s.vendor, s.model, s.cause, s.devices, s.hosts,
  s.devices * f.flops AS dense_fp16_flops
FROM stranded s
LEFT JOIN figure f ON f.node = s.node AND f.vendor = s.vendor AND f.model = s.model
LEFT JOIN node n ON n.node = s.node AND n.valid_from <= now() AND (n.valid_to IS NULL OR now() < n.valid_to)

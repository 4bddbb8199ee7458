/*
title = "Accelerator hours in service"
question = "Which accelerators were there to be given, hour by hour? One row for each whole device and hour of which rows came and in which it, and its host, were registered as in service at that time. An hour is there a minute after its end."

[columns]
node = "Node."
host = "Host."
device = "The accelerator."
ts = "Begin of the hour."
vendor = "Vendor."
model = "Model."
observed_ratio = "Part of the hour of which rows came: what is known of it."
*/
SELECT a.node, a.host, a.device, a.ts, a.vendor, a.model,
  COALESCE(LEAST(1.0, CAST(a.samples AS DOUBLE) / NULLIF(a.expected, 0)), 1.0) AS observed_ratio
FROM accelerator_1h a
-- A time of one entry has no other of it: there is at most one row each.
LEFT JOIN registration h ON h.node = a.node AND h.host = a.host AND h.device = ''
  AND a.ts >= h.valid_from AND (h.valid_to IS NULL OR a.ts < h.valid_to)
LEFT JOIN registration d ON d.node = a.node AND d.host = a.host AND d.device = a.device
  AND a.ts >= d.valid_from AND (d.valid_to IS NULL OR a.ts < d.valid_to)
WHERE a.parent IS NULL
  AND COALESCE(h.status, d.status) = 'in_service' AND COALESCE(d.status, h.status) = 'in_service'

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
WHERE a.parent IS NULL
  AND EXISTS (
    SELECT 1 FROM registration r
    WHERE r.node = a.node AND r.host = a.host AND (r.device = '' OR r.device = a.device)
      AND a.ts >= r.valid_from AND (r.valid_to IS NULL OR a.ts < r.valid_to) AND r.status = 'in_service'
  )
  AND NOT EXISTS (
    SELECT 1 FROM registration r
    WHERE r.node = a.node AND r.host = a.host AND (r.device = '' OR r.device = a.device)
      AND a.ts >= r.valid_from AND (r.valid_to IS NULL OR a.ts < r.valid_to) AND r.status <> 'in_service'
  )

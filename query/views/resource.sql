/*
title = "Registry: resource"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "Identification code of the node."
host = "The host; empty for the node as a whole."
resource = "Name of the entry, unique within the node."
valid_from = "From when this is so."
valid_to = "Until when; NULL for as long as nobody says otherwise."
class = "`general`, `intelligent` or `super`."
vendor = "Vendor, as in `accelerator.vendor`."
model = "Model, as in `accelerator.model`."
precision = "`fp64`, `fp32`, `tf32`, `bf16`, `fp16`, `fp8` or `int8`."
sparsity = "`dense`, or `sparse` for figures that count zeros nobody computes."
basis = "`nominal` by the data sheet, `measured` by a benchmark."
devices = "How many such accelerators are registered."
device_flops = "Operations a second of one of them, at this precision."
device_memory_bytes = "Memory of one of them."
measured_at = "When a measured figure was measured."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, resource, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_resource
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, resource ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, resource, valid_from, valid_to, class, vendor, model, precision, sparsity, basis, devices, device_flops, device_memory_bytes, measured_at
FROM span
WHERE NOT coalesce(revoked, false)

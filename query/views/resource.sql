/*
title = "Registered capacity, with its history"
question = "What has each node registered, from when to when? One row for each entry of a resource, with class, vendor, model, precision, sparsity and basis: figures that differ in one of them are never added. As fresh as the last import."

[columns]
node = "Identification code of the node."
resource = "Name of the entry, unique within the node."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
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
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, resource, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_resource
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, resource ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, resource, valid_from, valid_to, class, vendor, model, precision, sparsity, basis, devices, device_flops,
  device_memory_bytes, measured_at
FROM span WHERE revoked IS NOT TRUE

/*
title = "Nominal and measured capacity"
question = "How much of the capacity that a node registered was measured, and how much is missing? One row for each node, identifier, class, vendor, model, precision and sparsity as they are registered now; figures of different precision or sparsity stand in rows of their own and are never added. Identifiers are those of the accelerators of this vendor and model that reported in the last 30 days; NULL for those without one, and for entries of which nothing reported. A model that is registered under several names has the mean of its figures, weighted by devices. As fresh as the registry."
[columns]
node = "Node."
identifier = "Identifier of the accelerators; NULL where they have none."
class = "`general`, `intelligent` or `super`."
vendor = "Vendor."
model = "Model."
precision = "Precision."
sparsity = "`dense` or `sparse`."
devices = "Accelerators of the identifier that reported; where none did, those registered by number."
nominal_device_flops = "Operations a second of one, by the data sheet; NULL where none is registered."
measured_device_flops = "The same by benchmark; NULL where nobody measured."
nominal_flops = "Nominal, of all of them."
measured_flops = "Measured, of all of them."
shortfall_ratio = "Part of the nominal figure that the benchmark did not reach; below zero where it was exceeded."
measured_at = "Newest benchmark."
measured_age_days = "Its age."
*/
WITH entry AS (
  SELECT node, class, vendor, model, precision, sparsity, basis, devices, device_flops, measured_at
  FROM resource
  WHERE valid_from <= now() AND (valid_to IS NULL OR valid_to > now())
),
figure AS (
  SELECT node, class, vendor, model, precision, sparsity,
    SUM(devices) FILTER (WHERE basis = 'nominal') AS devices,
    COALESCE(
      SUM(devices * device_flops) FILTER (WHERE basis = 'nominal')
        / NULLIF(SUM(devices) FILTER (WHERE basis = 'nominal' AND device_flops IS NOT NULL), 0),
      AVG(device_flops) FILTER (WHERE basis = 'nominal')
    ) AS nominal,
    COALESCE(
      SUM(devices * device_flops) FILTER (WHERE basis = 'measured')
        / NULLIF(SUM(devices) FILTER (WHERE basis = 'measured' AND device_flops IS NOT NULL), 0),
      AVG(device_flops) FILTER (WHERE basis = 'measured')
    ) AS measured,
    MAX(measured_at) FILTER (WHERE basis = 'measured') AS measured_at
  FROM entry
  GROUP BY node, class, vendor, model, precision, sparsity
),
card AS (
  SELECT node, host, device, last(vendor, ts) AS vendor, last(model, ts) AS model
  FROM accelerator_1h
  WHERE ts >= now() - INTERVAL '30 days' AND parent IS NULL
  GROUP BY node, host, device
),
registered AS (
  SELECT node, host, device, identifier
  FROM registration
  WHERE valid_from <= now() AND (valid_to IS NULL OR valid_to > now())
),
seen AS (
  SELECT c.node, c.vendor, c.model, COALESCE(own.identifier, whole.identifier) AS identifier, COUNT(*) AS devices
  FROM card c
  LEFT JOIN registered own ON own.node = c.node AND own.host = c.host AND own.device = c.device
  LEFT JOIN registered whole ON whole.node = c.node AND whole.host = c.host AND whole.device = ''
  GROUP BY c.node, c.vendor, c.model, COALESCE(own.identifier, whole.identifier)
)
SELECT f.node, s.identifier, f.class, f.vendor, f.model, f.precision, f.sparsity,
  COALESCE(s.devices, f.devices) AS devices,
  f.nominal AS nominal_device_flops,
  f.measured AS measured_device_flops,
  f.nominal * COALESCE(s.devices, f.devices) AS nominal_flops,
  f.measured * COALESCE(s.devices, f.devices) AS measured_flops,
  1.0 - f.measured / NULLIF(f.nominal, 0) AS shortfall_ratio,
  f.measured_at,
  (CAST(now() AS BIGINT) - CAST(f.measured_at AS BIGINT)) / 86.4e9 AS measured_age_days
FROM figure f
LEFT JOIN seen s ON s.node = f.node AND s.vendor = f.vendor AND s.model = f.model
ORDER BY f.node, f.vendor, f.model, f.precision, f.sparsity, f.class, s.identifier

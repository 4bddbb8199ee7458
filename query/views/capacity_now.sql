/*
title = "Capacity now"
question = "How much computing power is there, and how much of it can be had now? One row for each node, vendor, model, precision, sparsity and basis, with devices and operations a second. Sum over nodes and models as you like, and never over precision, sparsity or basis: the same cards stand in a row for each. K1 of the programme is `total_flops`, K2 `available_flops`. States are of the last two minutes; what does not report is `unknown`, neither idle nor available."

[columns]
region = "Region of the node."
industry = "Industry the node serves; NULL where it serves all."
node = "The node."
class = "`general`, `intelligent` or `super`."
vendor = "Vendor."
model = "Model."
precision = "Precision the figures are of; NULL for cards that report and have no capacity registered."
sparsity = "`dense` or `sparse`."
basis = "`nominal` or `measured`."
total_devices = "Devices registered as capacity."
in_service_devices = "Those less what the registry has cordoned, in repair or being worked on. On a node of several models, what has been silent for more than a day is not taken off: nobody knows which model it is."
healthy_devices = "In service, reporting, and nothing wrong with them."
allocated_devices = "Reporting, and held by somebody."
available_devices = "Healthy and held by nobody."
unknown_devices = "Registered, and not reporting now."
total_flops = "Operations a second of all: K1."
in_service_flops = "Of those in service."
healthy_flops = "Of the healthy."
allocated_flops = "Of the allocated."
available_flops = "Of the available: K2."
unknown_flops = "Of those that do not report."
*/
WITH registered AS (
  SELECT * FROM resource WHERE valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
),
-- A host that has been in repair for days says no more what it has; where its node has one model, it has that.
only AS (
  SELECT node, min(vendor) AS vendor, min(model) AS model
  FROM registered
  WHERE class <> 'general'
  GROUP BY node
  HAVING count(DISTINCT vendor) = 1 AND count(DISTINCT model) = 1
),
known AS (
  SELECT a.node, a.state, a.is_fresh, a.is_in_service, a.is_healthy, a.is_allocated,
    coalesce(a.vendor, o.vendor) AS vendor,
    coalesce(a.model, o.model) AS model
  FROM accelerator_now a
  LEFT JOIN only o ON o.node = a.node AND NOT a.is_fresh AND a.vendor IS NULL
  WHERE a.is_registered
),
card AS (
  SELECT node, vendor, model,
    count(*) FILTER (WHERE is_fresh) AS reporting,
    count(*) FILTER (WHERE NOT is_in_service) AS withdrawn,
    count(*) FILTER (WHERE is_in_service AND is_healthy) AS healthy,
    count(*) FILTER (WHERE is_allocated) AS allocated,
    count(*) FILTER (WHERE state = 'free') AS available
  FROM known
  WHERE model IS NOT NULL
  GROUP BY node, vendor, model
),
capacity AS (
  SELECT node, class, vendor, model, precision, sparsity, basis,
    sum(devices) AS devices,
    sum(devices) FILTER (WHERE device_flops IS NOT NULL) AS devices_with_figure,
    sum(CAST(devices AS DOUBLE PRECISION) * device_flops) AS flops
  FROM registered
  GROUP BY node, class, vendor, model, precision, sparsity, basis
),
both AS (
  SELECT coalesce(c.node, d.node) AS node, c.class, coalesce(c.vendor, d.vendor) AS vendor,
    coalesce(c.model, d.model) AS model, c.precision, c.sparsity, c.basis,
    c.devices AS total,
    CASE WHEN c.devices IS NOT NULL THEN greatest(c.devices - coalesce(d.withdrawn, 0), 0) END AS in_service,
    coalesce(d.healthy, 0) AS healthy,
    coalesce(d.allocated, 0) AS allocated,
    coalesce(d.available, 0) AS available,
    CASE WHEN c.devices IS NOT NULL THEN greatest(c.devices - coalesce(d.reporting, 0), 0) END AS unknown,
    c.flops / nullif(c.devices_with_figure, 0) AS each
  FROM capacity c
  FULL JOIN card d ON d.node = c.node AND d.vendor = c.vendor AND d.model = c.model
),
place AS (
  SELECT node, region, industry
  FROM node
  WHERE valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
)
SELECT p.region, p.industry, b.node, b.class, b.vendor, b.model, b.precision, b.sparsity, b.basis,
  b.total AS total_devices,
  b.in_service AS in_service_devices,
  b.healthy AS healthy_devices,
  b.allocated AS allocated_devices,
  b.available AS available_devices,
  b.unknown AS unknown_devices,
  b.total * b.each AS total_flops,
  b.in_service * b.each AS in_service_flops,
  b.healthy * b.each AS healthy_flops,
  b.allocated * b.each AS allocated_flops,
  b.available * b.each AS available_flops,
  b.unknown * b.each AS unknown_flops
FROM both b
LEFT JOIN place p ON p.node = b.node

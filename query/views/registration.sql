/*
title = "Which host and accelerator belongs to which node, with its history"
question = "Which host, and which accelerator of it, belonged to which node under which identifier, from when to when? One row for each entry; `device` is empty for the host as a whole. Samples join as of their own time: `s.ts >= r.valid_from AND (r.valid_to IS NULL OR s.ts < r.valid_to)`. As fresh as the last import."

[columns]
node = "Identification code of the node."
host = "The host."
device = "The accelerator, as in `accelerator.device`; empty for the host as a whole."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
identifier = "Identifier of the resource (算力标识). Opaque text, never parsed."
issuer = "Who gave the identifier."
status = "`in_service`, `cordoned` (no new work), `repair`, `retired`."
machine_id = "The machine, as in `host.machine_id`; NULL when any may be it."
fabric = "The network on which whole hosts compute together (a rail, a pod, a cluster)."
rack = "The rack it stands in."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, device, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_registration
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, device ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, host, device, valid_from, valid_to, identifier, issuer, status, machine_id, fabric, rack
FROM span WHERE revoked IS NOT TRUE

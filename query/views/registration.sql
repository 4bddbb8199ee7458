/*
title = "Registry: registration"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "Identification code of the node."
host = "The host; empty for the node as a whole."
device = "The accelerator, as in `accelerator.device`; empty for the host as a whole."
valid_from = "From when this is so."
valid_to = "Until when; NULL for as long as nobody says otherwise."
identifier = "Identifier of the resource (算力标识). Opaque text, never parsed."
issuer = "Who gave the identifier."
status = "`in_service`, `cordoned` (no new work), `repair`, `retired`."
machine_id = "The machine, as in `host.machine_id`; NULL when any may be it."
fabric = "The network on which whole hosts compute together (a rail, a pod, a cluster)."
rack = "The rack it stands in."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, device, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_registration
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, device ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, device, valid_from, valid_to, identifier, issuer, status, machine_id, fabric, rack
FROM span
WHERE NOT coalesce(revoked, false)

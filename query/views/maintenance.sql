/*
title = "Registry: maintenance"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "Identification code of the node."
host = "The host; empty for the node as a whole."
maintenance = "Name of the entry: a ticket's number, say."
valid_from = "From when this is so."
valid_to = "Until when; NULL for as long as nobody says otherwise."
device = "The accelerator; NULL for the whole host."
starts = "When it begins."
ends = "When it ends."
kind = "`repair`, `upgrade`, `burn_in`, `power`, or another word."
reason = "Why."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, maintenance, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_maintenance
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, maintenance ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, maintenance, valid_from, valid_to, device, starts, ends, kind, reason
FROM span
WHERE NOT coalesce(revoked, false)

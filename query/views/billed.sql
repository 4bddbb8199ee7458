/*
title = "Registry: billed"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "It."
host = "It."
identifier = "It."
project = "It."
valid_from = "It."
valid_to = "It."
period_starts = "It."
period_ends = "It."
accelerator_hours = "It."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, identifier, project, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_billed
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, identifier, project ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, identifier, project, valid_from, valid_to, period_starts, period_ends, accelerator_hours
FROM span
WHERE NOT coalesce(revoked, false)

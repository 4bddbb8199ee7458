/*
title = "Registry: approved"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "It."
host = "It."
kind = "It."
name = "It."
value = "It."
valid_from = "It."
valid_to = "It."
reason = "It."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, kind, name, value, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_approved
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, kind, name, value ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, kind, name, value, valid_from, valid_to, reason
FROM span
WHERE NOT coalesce(revoked, false)

/*
title = "Registry: node"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "Identification code of the node."
host = "The host; empty for the node as a whole."
valid_from = "From when this is so."
valid_to = "Until when; NULL for as long as nobody says otherwise."
kind = "`national`, `regional`, `industry` or `site`."
name = "What people call it."
parent = "Identification code of the node above it; NULL for the topmost."
region = "The region it belongs to, in the site's own words."
industry = "The industry it serves; NULL where it serves all."
operator = "Who runs it."
issuer = "Who gave the code."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_node
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, valid_from, valid_to, kind, name, parent, region, industry, operator, issuer
FROM span
WHERE NOT coalesce(revoked, false)

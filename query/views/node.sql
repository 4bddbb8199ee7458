/*
title = "Platform nodes, with their history"
question = "Which nodes are there, what are they, and which is above which, from when to when? One row for each entry of a node; what holds now is `valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)`. As fresh as the last import."

[columns]
node = "Identification code of the node."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
kind = "`national`, `regional`, `industry` or `site`."
name = "What people call it."
parent = "Identification code of the node above it; NULL for the topmost."
region = "The region it belongs to, in the site's own words."
industry = "The industry it serves; NULL where it serves all."
operator = "Who runs it."
issuer = "Who gave the code."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_node
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, valid_from, valid_to, kind, name, parent, region, industry, operator, issuer
FROM span WHERE revoked IS NOT TRUE

/*
title = "Announced work, with its history"
question = "When is what worked on? One row for each entry of a ticket: `starts` and `ends` are the work, `valid_from` and `valid_to` how long it was announced so. Of a ticket that was moved, only the entry without `valid_to` holds now. As fresh as the last import."

[columns]
node = "Identification code of the node."
host = "The host; empty for the whole node."
maintenance = "Name of the entry: a ticket's number, say."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
device = "The accelerator; NULL for the whole host."
starts = "When it begins."
ends = "When it ends."
kind = "`repair`, `upgrade`, `burn_in`, `power`, or another word."
reason = "Why."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, maintenance, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_maintenance
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, maintenance ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, host, maintenance, valid_from, valid_to, device, starts, ends, kind, reason
FROM span WHERE revoked IS NOT TRUE

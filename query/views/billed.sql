/*
title = "Billed accelerator hours, with their history"
question = "How many accelerator hours were billed, for which identifier and project? One row for each entry of a period; `period_starts` and `period_ends` are what was billed. Not joined by `valid_from`: a bill that was not corrected or revoked counts. As fresh as the last import."

[columns]
node = "Identification code of the node."
identifier = "Identifier of the resource, as in `registration`."
project = "Project or account, as in `allocation.project`."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
period_starts = "When the billed time begins."
period_ends = "When it ends."
accelerator_hours = "Accelerator hours billed."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, identifier, project, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_billed
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, identifier, project ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, identifier, project, valid_from, valid_to, period_starts, period_ends, accelerator_hours
FROM span WHERE revoked IS NOT TRUE

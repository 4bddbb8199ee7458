/*
title = "What is allowed to be, with its history"
question = "Which firmware, drivers, modules, programs, listeners, accounts and transfers are approved, where, from when to when? One row for each entry; an empty `node` or `host` means everywhere. As fresh as the last import."

[columns]
node = "Identification code of the node; empty for all."
host = "The host; empty for all of the node."
kind = "`firmware`, `driver`, `module`, `executable`, `listener`, `config`, `account`, `source`, `transfer` or `power_limit`."
name = "Which: a driver's or module's name, a path, a port, an account."
value = "What it may be: a version, a SHA-256, an address; `*` for anything."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
reason = "Why, and who says so."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, kind, name, value, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_approved
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, kind, name, value ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, host, kind, name, value, valid_from, valid_to, reason
FROM span WHERE revoked IS NOT TRUE

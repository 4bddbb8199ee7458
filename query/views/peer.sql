/*
title = "Links to be measured, with their limits and history"
question = "Which links are measured, and what must they keep to, from when to when? One row for each entry; `host` is empty where any host of the node measures. As fresh as the last import."

[columns]
node = "Identification code of the node."
host = "The host that measures; empty for any of the node."
peer = "Name of the peer, as in `link.peer`."
valid_from = "From when this is so."
valid_to = "Up to when, exclusive: there the next entry of the key begins. NULL while there is none."
to_node = "Node the peer belongs to."
to_host = "Host the peer is; NULL where it is none of ours."
rtt_limit_seconds = "Longest acceptable time there and back."
loss_limit_ratio = "Largest acceptable loss."
bandwidth_bits_per_second = "What the link can carry."
*/
-- Of the entries with one key and one valid_from, the newest import counts; it ends where the next begins.
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, peer, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_peer
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, peer ORDER BY valid_from) AS valid_to
  FROM newest WHERE place = 1
)
SELECT node, host, peer, valid_from, valid_to, to_node, to_host, rtt_limit_seconds, loss_limit_ratio,
  bandwidth_bits_per_second
FROM span WHERE revoked IS NOT TRUE

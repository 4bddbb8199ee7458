/*
title = "Registry: peer"
question = "What the registry says, from when to when, without what was corrected or revoked."

[columns]
node = "Identification code of the node."
host = "The host; empty for the node as a whole."
peer = "Name of the peer, as in `link.peer`."
valid_from = "From when this is so."
valid_to = "Until when; NULL for as long as nobody says otherwise."
to_node = "Node the peer belongs to."
to_host = "Host the peer is; NULL where it is none of ours."
rtt_limit_seconds = "Longest acceptable time there and back."
loss_limit_ratio = "Largest acceptable loss."
bandwidth_bits_per_second = "What the link can carry."
*/
WITH newest AS (
  SELECT *, row_number() OVER (PARTITION BY node, host, peer, valid_from ORDER BY ts DESC, import DESC) AS place
  FROM registry_peer
),
span AS (
  SELECT *, lead(valid_from) OVER (PARTITION BY node, host, peer ORDER BY valid_from) AS valid_to
  FROM newest
  WHERE place = 1
)
SELECT node, host, peer, valid_from, valid_to, to_node, to_host, rtt_limit_seconds, loss_limit_ratio, bandwidth_bits_per_second
FROM span
WHERE NOT coalesce(revoked, false)

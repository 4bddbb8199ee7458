/*
title = "Nearly nobody tells anything"
every = "1m"
window = "5m"
wait = "30s"
sink = "alert"

[parameters]
minutes = { value = 3, unit = "minutes", help = "Silent for at least so long." }
most = { value = 0.5, unit = "ratio", help = "From more than this part of all hosts." }

[alert]
severity = "critical"
for = "1m"
resolve_after = "1m"
key = ["node"]
summary = "{silent} of {hosts} hosts of {node} have told nothing for {minutes} minutes: broker, collector or network"
techniques = []
guard = "A node of one host is a silent host, and no silent pipeline."
*/
-- Reads: agent, 1 h.
WITH seen AS (
  SELECT node, host, max(ts) AS last_seen FROM agent
  WHERE probe = 'all' AND ts >= $to - INTERVAL '1 hour' AND ts < $to GROUP BY node, host
),
counted AS (
  SELECT node, count(*) AS hosts,
    count(*) FILTER (WHERE date_part('epoch', $to) - date_part('epoch', last_seen) >= $minutes * 60) AS silent
  FROM seen GROUP BY node
)
SELECT node, hosts, silent, $minutes AS minutes FROM counted WHERE hosts > 1 AND silent > hosts * $most

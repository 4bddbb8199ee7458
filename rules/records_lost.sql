/*
title = "Records lost"
every = "1m"
window = "10m"
wait = "20s"
restate = "1d"
sink = "alert"

[alert]
severity = "warning"
for = "0s"
resolve_after = "10m"
key = ["node", "host", "stage", "reason"]
summary = "{host}: {records} records lost in the {stage} ({reason})"
techniques = []
guard = "Samples that a spool thins on purpose during a long outage are no loss of this kind."
*/
-- Reads: loss, 10 min.
SELECT node, host, stage, reason, sum(records) AS records
FROM loss
WHERE ts >= $from AND ts < $to AND reason <> 'thinned'
GROUP BY node, host, stage, reason

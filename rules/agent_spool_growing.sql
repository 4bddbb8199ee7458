/*
title = "Agent cannot get rid of its records"
every = "1m"
window = "5m"
wait = "30s"
restate = "1h"
sink = "alert"

[parameters]
oldest_seconds = { value = 120.0, unit = "seconds", help = "The oldest record has waited for longer than this." }

[alert]
severity = "warning"
for = "3m"
resolve_after = "3m"
key = ["node", "host"]
summary = "{host}: {records} records wait in the spool ({bytes:bytes}), the oldest for {oldest:duration}"
techniques = []
guard = "All samples of the window must say so. What an agent cannot send it says late: windows are looked at again for an hour."
*/
-- Reads: agent, 5 min.
SELECT node, host, max(spool_records) AS records, max(spool_bytes) AS bytes, max(spool_oldest_seconds) AS oldest
FROM agent
WHERE probe = 'all' AND ts >= $from AND ts < $to
GROUP BY node, host
HAVING min(coalesce(spool_oldest_seconds, 0)) > $oldest_seconds

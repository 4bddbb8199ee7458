/*
title = "Accelerator reports a fault"
every = "1m"
window = "10m"
wait = "20s"
restate = "1d"
sink = "alert"

[parameters]
harmless = { value = ",13,31,43,45,63,92,94,154,", unit = "codes", help = "NVIDIA's numbers (XID) that a user's program causes, or that only inform, with commas around each." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "10m"
key = ["node", "host", "device", "code"]
summary = "{host}: accelerator {device} reports {code}: {message}"
techniques = []
guard = "Faults that a program causes (page faults, illegal instructions) say nothing of the card; maintenance."
*/
-- Reads: accelerator_event, 10 min.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
)
SELECT e.node, e.host, coalesce(e.device, e.pci_bdf, e.vendor) AS device,
  coalesce(e.code::varchar, e.kind) AS code, count(*) AS times, max(e.message) AS message
FROM accelerator_event e
WHERE e.ts >= $from AND e.ts < $to AND e.kind IN ('fault', 'stalled', 'crashed')
  AND NOT (e.vendor = 'nvidia' AND e.code IS NOT NULL AND strpos($harmless, ',' || e.code::varchar || ',') > 0)
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = e.node AND (q.host = '' OR q.host = e.host))
GROUP BY e.node, e.host, coalesce(e.device, e.pci_bdf, e.vendor), coalesce(e.code::varchar, e.kind)

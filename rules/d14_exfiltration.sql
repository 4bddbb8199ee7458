/*
title = "Host sends far more than it ever does at this hour"
every = "1h"
window = "1h"
wait = "10m"
restate = "1d"
sink = "alert"

[parameters]
bytes = { value = 50000000000, unit = "bytes", help = "Least that must have been sent within the hour." }
ratio = { value = 10, unit = "1", help = "Bytes sent by bytes received." }
days = { value = 7, unit = "1", help = "Days of the last 28 for which this hour must be known." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "2h"
key = ["node", "host", "interface"]
summary = "{host} sent {sent_gigabytes:.0f} GB by {interface} within an hour, where {usual_gigabytes:.0f} GB is the most of this hour in 28 days"
techniques = ["T1048", "T1041"]
guard = "The same hour of 28 days, so that nightly backups are what is usual; bytes to networks approved for transfers (object stores, mirrors) are taken off; as much received as sent is a proxy or a file system, and each interface is judged alone, so that what a storage network brings does not hide what an uplink sends; hosts not known for a week are left out; maintenance."
*/
-- Reads: interface_1h, this hour of 29 days; connection, 1 h.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
hour AS (
  SELECT i.node, i.host, i.interface, i.ts, i.tx_bytes_increase AS sent, i.rx_bytes_increase AS received
  FROM interface_1h i
  WHERE i.driver IS NOT NULL AND i.kind IS NULL
    AND i.ts >= $from - INTERVAL '28 days' AND i.ts < $to AND date_part('hour', i.ts) = date_part('hour', $from)
),
usual AS (
  SELECT node, host, interface, percentile_cont(0.99) WITHIN GROUP (ORDER BY sent) AS sent, count(sent) AS days
  FROM hour WHERE ts < $from GROUP BY node, host, interface
),
-- What each connection group sent to networks that are approved for it.
transfer AS (
  SELECT c.node, c.host, increase(c.sent_bytes, c.ts) AS sent
  FROM connection c
  WHERE c.ts >= $from AND c.ts < $to AND EXISTS (
    SELECT 1 FROM approved a
    WHERE a.kind = 'transfer' AND a.name IN ('*', c.remote_prefix)
      AND (a.node = '' OR a.node = c.node) AND (a.host = '' OR a.host = c.host)
      AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
  GROUP BY c.node, c.host, c.protocol, c.direction, c.port, c.remote_prefix
),
registered AS (SELECT node, host, sum(sent) AS sent FROM transfer GROUP BY node, host)
SELECT h.node, h.host, h.interface, h.sent / 1e9 AS sent_gigabytes, u.sent / 1e9 AS usual_gigabytes,
  coalesce(r.sent, 0) / 1e9 AS registered_gigabytes
FROM hour h
JOIN usual u ON u.node = h.node AND u.host = h.host AND u.interface = h.interface
LEFT JOIN registered r ON r.node = h.node AND r.host = h.host
WHERE h.ts >= $from AND u.days >= $days
  AND h.sent - coalesce(r.sent, 0) > u.sent
  AND h.sent - coalesce(r.sent, 0) > $bytes
  AND h.sent - coalesce(r.sent, 0) > $ratio * h.received
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = h.node AND (q.host = '' OR q.host = h.host))

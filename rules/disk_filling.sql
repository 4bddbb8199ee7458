/*
title = "File system full, or soon"
every = "5m"
window = "1h"
wait = "30s"
sink = "alert"

[parameters]
free_ratio = { value = 0.05, unit = "ratio", help = "Less free than this is full." }
soon_hours = { value = 12, unit = "hours", help = "Filling so fast that it is full within so many hours." }
soon_ratio = { value = 0.25, unit = "ratio", help = "Only with less free than this is it worth saying when." }

[alert]
severity = "warning"
for = "10m"
resolve_after = "15m"
key = ["node", "host", "mountpoint"]
summary = "{host}: {mountpoint} has {available:bytes} left ({free_ratio:.1%}); full in {full_in_seconds:duration}"
techniques = []
guard = "Read-only file systems and images, which are full by nature; the last hour's mean pace, of at least half an hour."
*/
-- Reads: filesystem, 1 h.
WITH span AS (
  SELECT node, host, mountpoint, min(ts) AS first_ts, max(ts) AS last_ts FROM filesystem
  WHERE ts >= $from AND ts < $to AND size_bytes > 0 AND available_bytes IS NOT NULL AND coalesce(read_only, false) = false
    AND coalesce(fstype, '') NOT IN ('squashfs', 'iso9660', 'erofs')
  GROUP BY node, host, mountpoint
),
ends AS (
  SELECT s.node, s.host, s.mountpoint,
    date_part('epoch', max(s.last_ts)) - date_part('epoch', max(s.first_ts)) AS seconds,
    max(f.available_bytes) FILTER (WHERE f.ts = s.first_ts) AS before,
    max(f.available_bytes) FILTER (WHERE f.ts = s.last_ts) AS available,
    max(f.size_bytes) FILTER (WHERE f.ts = s.last_ts) AS size
  FROM span s JOIN filesystem f ON f.node = s.node AND f.host = s.host AND f.mountpoint = s.mountpoint
  WHERE f.ts >= $from AND f.ts < $to AND (f.ts = s.first_ts OR f.ts = s.last_ts)
  GROUP BY s.node, s.host, s.mountpoint
),
paced AS (
  SELECT node, host, mountpoint, available, available * 1.0 / size AS free_ratio,
    CASE WHEN seconds >= 1800 AND before > available THEN available * seconds / (before - available) END AS full_in_seconds
  FROM ends
)
SELECT node, host, mountpoint, available, free_ratio, full_in_seconds FROM paced
WHERE free_ratio < $free_ratio OR (free_ratio < $soon_ratio AND full_in_seconds < $soon_hours * 3600)

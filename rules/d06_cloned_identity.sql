/*
title = "One identity in two places"
every = "5m"
window = "15m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
overlap = { value = "2 minutes", unit = "interval", help = "Both must be seen in turns for longer than this: first one, then the other, then the first again." }

start_seconds = { value = 60, unit = "seconds", help = "Starts of the kernel that lie further apart are two kernels; what the clock is set by moves one start." }
turns = { value = 3, unit = "1", help = "Changes from one kernel to the other and back within the window: a clock that is set and set back makes two." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "30m"
key = ["what", "identity"]
summary = "{what} {identity} is in two places at once: {places}"
techniques = ["T1565.002", "T1036"]
guard = "Only what goes on side by side counts: after a reinstallation, a repair or a move the first is not seen again, and a clock that is set moves the start of the kernel once or twice. Containers share their host's identity and are left out, partitions their card's serial number; numbers that are none (zeros, `N/A`) do not count. Records sent again have the same name and are taken once by the collector, which does not compare what they hold: two payloads under one name are not seen here, what their rows say is."
*/
-- Reads: host and accelerator_1m, 15 min.
WITH seen AS (
  SELECT node, host, machine_id, coalesce(serial, '') AS serial, ts FROM host
  WHERE ts >= $from AND ts < $to AND machine_id IS NOT NULL AND container IS DISTINCT FROM true
),
-- Every identity with every place it was seen at, and when.
place AS (
  SELECT 'host name' AS what, node || '/' || host AS identity, 'machine ' || machine_id || ' ' || serial AS place,
    node, host, min(ts) AS first_ts, max(ts) AS last_ts
  FROM seen GROUP BY node, host, machine_id, serial
  UNION ALL
  SELECT 'machine', machine_id, node || '/' || host, node, host, min(ts), max(ts)
  FROM seen GROUP BY machine_id, node, host
  UNION ALL
  SELECT 'accelerator', device, node || '/' || host, node, host, min(ts), max(ts)
  FROM accelerator_1m WHERE ts >= $from AND ts < $to GROUP BY device, node, host
  UNION ALL
  SELECT 'serial number', vendor || ' ' || serial, node || '/' || host || ' ' || device, node, host, min(ts), max(ts)
  FROM accelerator_1m
  WHERE ts >= $from AND ts < $to AND parent IS NULL
    AND NOT regexp_like(serial, '^(0*|n/?a|none|unknown|not specified|default string|to be filled.*)$', 'i')
  GROUP BY vendor, serial, node, host, device
),
-- One disk in two machines: name and identity are the same, and two kernels speak in turns.
kernel AS (
  SELECT node, host, machine_id, boot_time_seconds AS start,
    lag(boot_time_seconds) OVER (PARTITION BY node, host, machine_id ORDER BY ts) AS start_before
  FROM host
  WHERE ts >= $from AND ts < $to AND container IS DISTINCT FROM true AND boot_time_seconds IS NOT NULL
)
SELECT min(a.node) AS node, min(a.host) AS host, a.what, a.identity, string_agg(DISTINCT a.place, ', ') AS places
FROM place a JOIN place b ON b.what = a.what AND b.identity = a.identity AND b.place <> a.place
WHERE a.first_ts + $overlap::interval < b.last_ts AND b.first_ts + $overlap::interval < a.last_ts
GROUP BY a.what, a.identity
UNION ALL
SELECT node, host, 'kernel', node || '/' || host,
  string_agg(DISTINCT 'started ' || to_timestamp_seconds(start)::varchar, ', ')
FROM kernel WHERE abs(start - start_before) > $start_seconds
GROUP BY node, host, machine_id HAVING count(*) >= $turns

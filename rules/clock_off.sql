/*
title = "Clock is off, or nobody keeps it"
every = "5m"
window = "10m"
wait = "20s"
sink = "alert"

[parameters]
offset_seconds = { value = 0.1, unit = "seconds", help = "Off by more than this, as the kernel reckons." }
error_seconds = { value = 1.0, unit = "seconds", help = "Or not known to be right by less than this." }

[alert]
severity = "warning"
for = "10m"
resolve_after = "10m"
key = ["node", "host"]
summary = "{host}: the clock is off by {offset:.3f} s, known to {error:.1f} s"
techniques = []
guard = "Every sample of the window must say so: a clock that has just been set is left alone."
inhibited_by = ["host_silent"]
*/
-- Reads: system, 10 min.
SELECT node, host, min(abs(clock_offset_seconds)) AS offset, min(clock_max_error_seconds) AS error
FROM system
WHERE ts >= $from AND ts < $to
GROUP BY node, host
HAVING min(abs(clock_offset_seconds)) > $offset_seconds OR min(clock_max_error_seconds) > $error_seconds

/*
title = "Clock set, or made to run at another speed"
every = "5m"
window = "10m"
wait = "1m"
restate = "1d"
sink = "alert"

[parameters]
step_seconds = { value = 2, unit = "seconds", help = "A jump of the wall clock against the kernel's uptime, from one row to the next." }
creep_seconds = { value = 5, unit = "seconds", help = "What smaller jumps may come to within an hour, by the start of the kernel, which the kernel reckons from its clock." }
skew_seconds = { value = 5, unit = "seconds", help = "Median of how far the kernel believes its clock to be off." }
speed_ratio = { value = 0.005, unit = "ratio", help = "How far the length of the clock's tick may be from what it is; chronyd changes it by far less." }
settle_seconds = { value = 600, unit = "seconds", help = "After a start the clock may be set." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "what"]
summary = "{host}: its clock {what}, {seconds:.1f} seconds"
techniques = ["T1070.006"]
guard = "Rows that come late carry the uptime of when they were taken, so a backlog moves nothing; a start resets uptime and is left out, with ten minutes after it; small jumps count when they come to something together, so a start of the kernel that is reckoned now a second earlier and now a second later does not; a virtual machine that was suspended jumps forward when it goes on, so forward jumps of virtual machines do not count; maintenance. A clock that was wrong before the agent began is not seen: rows do not say when they arrived."
*/
-- Reads: system, 10 min; host, 6 h.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
virtual AS (
  SELECT node, host FROM host
  WHERE ts >= $from AND ts < $to AND virtualization IS NOT NULL AND virtualization <> 'none' GROUP BY node, host
),
-- The start of the kernel, as the wall clock has it, says what uptime was in the last minute before the window.
told AS (
  SELECT node, host, ts, uptime_seconds AS uptime, 0 AS coarse FROM system
  WHERE ts >= $from AND ts < $to AND uptime_seconds IS NOT NULL
  UNION ALL
  SELECT node, host, max(ts), extract(epoch FROM max(ts)) - last(boot_time_seconds, ts), 2 FROM host
  WHERE ts >= $from - INTERVAL '6 hours' AND ts < $from AND boot_time_seconds IS NOT NULL GROUP BY node, host
),
pair AS (
  SELECT node, host, uptime, lag(uptime) OVER w AS uptime_before, lag(coarse) OVER w AS coarse,
    extract(epoch FROM ts - lag(ts) OVER w) - (uptime - lag(uptime) OVER w) AS step
  FROM told WINDOW w AS (PARTITION BY node, host ORDER BY ts)
),
-- After a jump back, rows of both times lie between each other: whichever way, the largest is the jump.
stepped AS (
  SELECT node, host, min(step) AS backward, max(step) AS forward FROM pair
  WHERE uptime >= uptime_before AND uptime > $settle_seconds AND abs(step) > $step_seconds + coarse
  GROUP BY node, host
),
kept AS (
  SELECT node, host, median(abs(clock_offset_seconds)) FILTER (WHERE clock_synchronised) AS skew,
    median(abs(clock_tick_seconds / 0.01 - 1)) AS speed
  FROM system WHERE ts >= $from AND ts < $to GROUP BY node, host
),
-- Jumps too small to be seen one by one. A start of another kernel, or a large jump, is not of them.
crept AS (
  SELECT node, host, sum(moved) AS seconds
  FROM (
    SELECT node, host,
      boot_time_seconds - lag(boot_time_seconds) OVER (PARTITION BY node, host, machine_id ORDER BY ts) AS moved
    FROM host WHERE ts >= $to - INTERVAL '1 hour' AND ts < $to AND boot_time_seconds IS NOT NULL)
  WHERE abs(moved) <= $step_seconds + 1
  GROUP BY node, host HAVING abs(sum(moved)) > $creep_seconds
),
found AS (
  SELECT node, host, 'was set bit by bit' AS what, seconds FROM crept
  UNION ALL
  SELECT s.node, s.host, 'was set' AS what, CASE WHEN s.forward > $step_seconds THEN s.forward ELSE s.backward END AS seconds
  FROM stepped s LEFT JOIN virtual v ON v.node = s.node AND v.host = s.host
  WHERE s.backward < -$step_seconds OR v.host IS NULL
  UNION ALL
  SELECT node, host, 'is off', skew FROM kept WHERE skew > $skew_seconds
  UNION ALL
  SELECT node, host, 'runs at another speed, in an hour', speed * 3600 FROM kept WHERE speed > $speed_ratio
)
SELECT f.node, f.host, f.what, f.seconds FROM found f
WHERE NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = f.node AND (q.host = '' OR q.host = f.host))

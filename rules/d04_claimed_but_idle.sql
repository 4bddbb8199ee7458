/*
title = "Accelerator held for hours and not used"
every = "30m"
window = "4h"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
busy_ratio = { value = 0.01, unit = "ratio", help = "95 of 100 minutes must have had a lower load of the cores." }
memory_ratio = { value = 0.02, unit = "ratio", help = "Most of the device's memory that may have been in use in any minute." }
known_ratio = { value = 0.9, unit = "ratio", help = "Part of the minutes that must be known." }
staging_bytes = { value = 100000000, unit = "bytes", help = "A job whose processes have read or written more in the last ten minutes is bringing its data, or writing a checkpoint." }

[alert]
severity = "info"
for = "0s"
resolve_after = "1h"
key = ["node", "host", "device", "allocation"]
summary = "{host}: {device} has been held by {holder} for {hours:.1f} hours and was not used"
techniques = []
guard = "Accounts approved as interactive; jobs that move data (checkpoints, staging); maintenance. A minute that is not known is not an idle one: nine of ten must be known."
*/
-- Reads: accelerator_1m, 4 h; allocation, 5 h; process, 10 min.
WITH quiet AS (
  SELECT node, host, coalesce(device, '') AS device FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
card AS (
  SELECT node, host, device, max(pci_bdf) AS pci_bdf, max(device_file) AS device_file
  FROM accelerator_1m WHERE ts >= $to - INTERVAL '10 minutes' AND ts < $to GROUP BY node, host, device
),
called AS (
  SELECT node, host, device, device AS name FROM card
  UNION ALL SELECT node, host, device, pci_bdf FROM card WHERE pci_bdf IS NOT NULL
  UNION ALL SELECT node, host, device, device_file FROM card WHERE device_file IS NOT NULL
),
held AS (
  SELECT node, host, source, allocation, device AS name, max(job) AS job, max("user") AS "user", max(project) AS project,
    min(coalesce(began, ts)) AS began, bool_or(state = 'ended') AS over
  FROM allocation
  WHERE ts >= $from - INTERVAL '65 minutes' AND ts < $to AND state IN ('held', 'ended')
  GROUP BY node, host, source, allocation, device
),
idle AS (
  SELECT node, host, device,
    percentile_cont(0.95) WITHIN GROUP (
      ORDER BY coalesce(core_active_ratio_mean, utilization_mean_ratio_mean, utilization_ratio_mean)) AS busy,
    max(memory_used_bytes_mean / nullif(memory_total_bytes_last, 0)::double) AS memory,
    count(coalesce(core_active_ratio_mean, utilization_mean_ratio_mean, utilization_ratio_mean)) AS known
  FROM accelerator_1m WHERE ts >= $from AND ts < $to
  GROUP BY node, host, device
),
staging AS (
  SELECT node, host, job FROM (
    SELECT node, host, pid, start_ticks, max(job) AS job,
      coalesce(increase(read_bytes, ts), 0) + coalesce(increase(write_bytes, ts), 0) AS moved
    FROM process WHERE ts >= $to - INTERVAL '10 minutes' AND ts < $to AND job IS NOT NULL
    GROUP BY node, host, pid, start_ticks)
  GROUP BY node, host, job HAVING sum(moved) > $staging_bytes
),
interactive AS (
  SELECT node, host, name FROM approved
  WHERE kind = 'account' AND value = 'interactive' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
)
SELECT i.node, i.host, i.device, h.allocation, coalesce(h.user, h.project, h.allocation) AS holder,
  extract(epoch FROM $to - h.began) / 3600 AS hours, i.busy, i.memory
FROM idle i
JOIN called c ON c.node = i.node AND c.host = i.host AND c.device = i.device
JOIN held h ON h.node = i.node AND h.host = i.host AND h.name = c.name
WHERE NOT h.over AND h.began <= $from
  AND i.busy < $busy_ratio AND i.memory < $memory_ratio
  AND i.known >= $known_ratio * extract(epoch FROM $to - $from) / 60
  AND NOT EXISTS (SELECT 1 FROM staging s WHERE s.node = h.node AND s.host = h.host AND s.job = h.job)
  AND NOT EXISTS (
    SELECT 1 FROM interactive a
    WHERE (a.node = '' OR a.node = h.node) AND (a.host = '' OR a.host = h.host) AND (a.name = h.user OR a.name = h.project))
  AND NOT EXISTS (
    SELECT 1 FROM quiet q
    WHERE q.node = i.node AND (q.host = '' OR q.host = i.host) AND (q.device = '' OR q.device = i.device))

/*
title = "Accelerator busy without a job"
every = "1m"
window = "10m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
busy_ratio = { value = 0.2, unit = "ratio", help = "A minute counts as busy when the mean load of the cores (or the driver's utilisation, where cores are not counted) was above this." }
minutes = { value = 9, unit = "1", help = "Busy minutes of the ten that must be without a holder; one may be missing." }
slack = { value = "2 minutes", unit = "interval", help = "An allocation counts so long before it began and after it ended: one seen by open files is told up to a minute late." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "3m"
key = ["node", "host", "device"]
summary = "{host}: accelerator {device} is {busy:.0%} busy and nobody holds it ({programs})"
techniques = ["T1496.001"]
guard = "Two minutes of slack around allocations; an allocation of a card covers its partitions, and the reverse; maintenance and burn-in; programs on the approved list (monitoring, diagnosis); hosts whose agent cannot see allocations are left out, for there nothing is known."
*/
-- Reads: accelerator_1m and agent, 10 min; accelerator_process, 2 min; allocation, 75 min.
WITH quiet AS (
  SELECT node, host, coalesce(device, '') AS device FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
load AS (
  SELECT node, host, device, ts,
    coalesce(core_active_ratio_mean, utilization_mean_ratio_mean, utilization_ratio_mean) AS busy
  FROM accelerator_1m WHERE ts >= $from AND ts < $to
),
card AS (
  SELECT node, host, device, max(parent) AS parent, max(pci_bdf) AS pci_bdf, max(device_file) AS device_file
  FROM accelerator_1m WHERE ts >= $from AND ts < $to GROUP BY node, host, device
),
-- What an allocation may call the device: itself, its card, its partitions, its address, its file.
called AS (
  SELECT node, host, device, device AS name FROM card
  UNION ALL SELECT node, host, device, parent FROM card WHERE parent IS NOT NULL
  UNION ALL SELECT node, host, parent, device FROM card WHERE parent IS NOT NULL
  UNION ALL SELECT node, host, device, pci_bdf FROM card WHERE pci_bdf IS NOT NULL
  UNION ALL SELECT node, host, device, device_file FROM card WHERE device_file IS NOT NULL
),
-- A holder says so once an hour; what was there before the agent has no begin.
held AS (
  SELECT node, host, source, allocation, device AS name,
    min(coalesce(began, $from - INTERVAL '1 day')) AS began,
    max(CASE WHEN state = 'ended' THEN coalesce(ended, ts) END) AS ended
  FROM allocation
  WHERE ts >= $from - INTERVAL '65 minutes' AND ts < $to AND state IN ('held', 'ended')
  GROUP BY node, host, source, allocation, device
),
holder AS (
  SELECT c.node, c.host, c.device, h.began, h.ended
  FROM called c JOIN held h ON h.node = c.node AND h.host = c.host AND h.name = c.name
),
blind AS (
  SELECT DISTINCT node, host FROM agent
  WHERE probe = 'allocation' AND ts >= $from AND ts < $to AND succeeded = false AND last_error IS NOT NULL
),
daemon AS (
  SELECT node, host, left(split_part(name, '/', -1), 15) AS name FROM approved
  WHERE kind = 'executable' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
program AS (
  SELECT p.node, p.host, p.device, string_agg(DISTINCT p.name, ', ') AS programs,
    bool_and(d.name IS NOT NULL) AS all_approved
  FROM accelerator_process p
  LEFT JOIN daemon d ON d.name = p.name
    AND (d.node = '' OR d.node = p.node) AND (d.host = '' OR d.host = p.host)
  WHERE p.ts >= $to - INTERVAL '2 minutes' AND p.ts < $to
  GROUP BY p.node, p.host, p.device
),
found AS (
  SELECT l.node, l.host, l.device, count(*) AS minutes, avg(l.busy) AS busy
  FROM load l
  WHERE l.busy > $busy_ratio
    AND NOT EXISTS (
      SELECT 1 FROM holder h
      WHERE h.node = l.node AND h.host = l.host AND h.device = l.device
        AND h.began - $slack::interval < l.ts + INTERVAL '1 minute'
        AND (h.ended IS NULL OR h.ended + $slack::interval > l.ts))
  GROUP BY l.node, l.host, l.device
  HAVING count(*) >= $minutes
)
SELECT f.node, f.host, f.device, f.busy, f.minutes, coalesce(p.programs, 'no program seen') AS programs
FROM found f
LEFT JOIN program p ON p.node = f.node AND p.host = f.host AND p.device = f.device
WHERE coalesce(p.all_approved, false) = false
  AND NOT EXISTS (SELECT 1 FROM blind b WHERE b.node = f.node AND b.host = f.host)
  AND NOT EXISTS (
    SELECT 1 FROM quiet q
    WHERE q.node = f.node AND (q.host = '' OR q.host = f.host) AND (q.device = '' OR q.device = f.device))

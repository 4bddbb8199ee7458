/*
title = "Host or accelerator reports and is not registered"
every = "1h"
window = "1h"
wait = "5m"
restate = "0s"
sink = "alert"

[parameters]
grace = { value = "1 day", unit = "interval", help = "What is new may report for so long before somebody has registered it." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "2h"
key = ["node", "host", "device", "what"]
summary = "{host}: {what} {device}"
techniques = ["T1200"]
guard = "A day of grace; cards in repair (RMA); partitions of a registered card; hosts under repair. A registration that says which machine it is for must meet that machine."
*/
-- Reads: system_1h and accelerator_1h, a day of hours, a day back; accelerator_1m, 10 min; host, 10 min now, and a day of it a day back.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE kind = 'repair' AND starts < $to AND ends > $to - $grace::interval
    AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
live AS (
  SELECT node, host, device, status, machine_id FROM registration
  WHERE valid_from < $to AND (valid_to IS NULL OR valid_to >= $to)
),
host_now AS (
  SELECT node, host, max(machine_id) AS machine_id FROM host
  WHERE ts >= $to - INTERVAL '10 minutes' AND ts < $to GROUP BY node, host
),
host_then AS (
  SELECT node, host, last(machine_id, ts) AS machine_id FROM host
  WHERE ts >= $to - $grace::interval - INTERVAL '1 day' AND ts < $to - $grace::interval GROUP BY node, host
),
known_host AS (
  SELECT DISTINCT node, host FROM system_1h
  WHERE ts >= $to - $grace::interval - INTERVAL '1 day' AND ts < $to - $grace::interval
),
device_now AS (
  SELECT node, host, device, max(parent) AS parent FROM accelerator_1m
  WHERE ts >= $to - INTERVAL '10 minutes' AND ts < $to GROUP BY node, host, device
),
known_device AS (
  SELECT DISTINCT node, host, device FROM accelerator_1h
  WHERE ts >= $to - $grace::interval - INTERVAL '1 day' AND ts < $to - $grace::interval
),
found AS (
  SELECT h.node, h.host, '' AS device, 'reports and is not registered' AS what
  FROM host_now h JOIN known_host k ON k.node = h.node AND k.host = h.host
  WHERE NOT EXISTS (
    SELECT 1 FROM live l WHERE l.node = h.node AND l.host = h.host AND l.device = '' AND l.status <> 'retired')
  UNION ALL
  SELECT h.node, h.host, '', 'is another machine than the registered one'
  FROM host_now h JOIN host_then t ON t.node = h.node AND t.host = h.host
  JOIN live l ON l.node = h.node AND l.host = h.host AND l.device = ''
  WHERE l.machine_id IS NOT NULL AND l.machine_id <> '' AND h.machine_id <> l.machine_id AND t.machine_id <> l.machine_id
  UNION ALL
  SELECT d.node, d.host, d.device, 'has an accelerator that is not registered:'
  FROM device_now d JOIN known_device k ON k.node = d.node AND k.host = d.host AND k.device = d.device
  WHERE NOT EXISTS (
      SELECT 1 FROM live l
      WHERE l.node = d.node AND l.host = d.host AND l.status <> 'retired' AND l.device IN (d.device, d.parent))
    AND NOT EXISTS (SELECT 1 FROM live l WHERE l.device = d.device AND l.status = 'repair')
)
SELECT f.node, f.host, f.device, f.what FROM found f
WHERE NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = f.node AND (q.host = '' OR q.host = f.host))

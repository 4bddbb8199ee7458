/*
title = "One thing is not told any more"
every = "5m"
window = "10m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
rows = { value = 10, unit = "1", help = "Rows that must be missing, of those that the agent says it has taken." }
missing_ratio = { value = 0.2, unit = "ratio", help = "And this part of them; a tick at the edge of the window is a tenth at the most." }
rarer = { value = 5, unit = "1", help = "A probe that is asked so many times more rarely than an hour ago, is blinded; what the agent's budget stretches, it stretches for all." }
rollout_ratio = { value = 0.2, unit = "ratio", help = "When so many hosts of the class, and three at least, lose the same probe, it was decided so." }
waiting_seconds = { value = 30, unit = "seconds", help = "Rows that wait in the agent's spool for longer come later, and are not missing." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "probe", "what"]
summary = "{host}: {probe} {what}, while its agent reports"
techniques = ["T1562.001", "T1685"]
guard = "Rows that the agent has declared lost, or that still wait in its spool; accelerators while their driver is loaded anew or stalls; intervals that the agent stretches for all probes because of its budget; the same probe gone on 20 % of the hosts of a class (three at least); maintenance. Numbers of records are not kept beside rows, so holes are found by counting: what the agent says it took, and what is there, by every table that has minutes and by those that tell of security."
*/
-- Reads: agent, 10 min and ten minutes an hour before; minutes of all tables that have them, and the others that are counted, 10 min; accelerator_event, 20 min; loss, 70 min; host, 10 min.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
class AS (
  SELECT node, host, concat_ws('/', max(os_id), max(os_version), max(product)) AS class
  FROM host WHERE ts >= $from AND ts < $to GROUP BY node, host
),
before AS (
  SELECT node, host, probe FROM agent
  WHERE ts >= $from - INTERVAL '1 hour' AND ts < $from - INTERVAL '50 minutes' AND succeeded AND probe <> 'all'
  GROUP BY node, host, probe
),
now_there AS (
  SELECT node, host, probe FROM agent
  WHERE ts >= $from AND ts < $to AND succeeded GROUP BY node, host, probe
),
-- The agent itself must be there for the whole window: one that is gone is another rule's.
alive AS (
  SELECT node, host, max(spool_oldest_seconds) AS waiting FROM agent
  WHERE ts >= $from AND ts < $to AND probe = 'all'
  GROUP BY node, host
  HAVING min(ts) < $from + INTERVAL '2 minutes' AND max(ts) >= $to - INTERVAL '2 minutes'
),
vanished AS (
  SELECT b.node, b.host, b.probe FROM before b
  JOIN alive a ON a.node = b.node AND a.host = b.host
  LEFT JOIN now_there n ON n.node = b.node AND n.host = b.host AND n.probe = b.probe
  WHERE n.probe IS NULL
),
taken AS (
  SELECT node, host, probe, increase(rows_sampled, ts) AS rows FROM agent
  WHERE ts >= $from AND ts < $to AND probe <> 'all' GROUP BY node, host, probe
),
-- Minutes say how many rows they were made of, which is cheaper than to count them.
there AS (
  SELECT node, host, probe, sum(rows) AS rows FROM (
    SELECT node, host, 'accelerator' AS probe, samples AS rows FROM accelerator_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'bond', samples FROM bond_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'container', samples FROM container_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'cpu', samples FROM cpu_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'disk', samples FROM disk_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'edac', samples FROM edac_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'filesystem', samples FROM filesystem_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'interface', samples FROM interface_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'link', samples FROM link_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'memory', samples FROM memory_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'nic', samples FROM nic_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'numa', samples FROM numa_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'power', samples FROM power_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'protocol', samples FROM protocol_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'rdma', samples FROM rdma_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'sensor', samples FROM sensor_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'service', samples FROM service_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'system', samples FROM system_1m WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'accelerator_process', 1 FROM accelerator_process WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'allocation', 1 FROM allocation WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'config_change', 1 FROM config_change WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'connection', 1 FROM connection WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'executable', 1 FROM executable WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'listener', 1 FROM listener WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'login', 1 FROM login WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'module', 1 FROM module WHERE ts >= $from AND ts < $to
    UNION ALL SELECT node, host, 'process', 1 FROM process WHERE ts >= $from AND ts < $to
  ) GROUP BY node, host, probe
),
declared AS (
  SELECT node, host, sum(coalesce(rows, records)) AS rows FROM loss
  WHERE ts >= $from - INTERVAL '1 hour' AND ts < $to GROUP BY node, host
),
missing AS (
  SELECT t.node, t.host, t.probe
  FROM taken t
  JOIN alive a ON a.node = t.node AND a.host = t.host
  LEFT JOIN there h ON h.node = t.node AND h.host = t.host AND h.probe = t.probe
  LEFT JOIN declared d ON d.node = t.node AND d.host = t.host
  WHERE t.probe IN ('accelerator', 'accelerator_process', 'allocation', 'bond', 'config_change', 'connection', 'container',
      'cpu', 'disk', 'edac', 'executable', 'filesystem', 'interface', 'link', 'listener', 'login', 'memory',
      'module', 'nic', 'numa', 'power', 'process', 'protocol', 'rdma', 'sensor', 'service', 'system')
    AND coalesce(a.waiting, 0) <= $waiting_seconds
    AND t.rows - coalesce(h.rows, 0) - coalesce(d.rows, 0) >= $rows
    AND t.rows - coalesce(h.rows, 0) - coalesce(d.rows, 0) >= $missing_ratio * t.rows
),
-- How often each probe is asked, apart from what the budget stretches.
pace AS (
  SELECT p.node, p.host, p.probe, p.ts >= $from AS is_now,
    p.interval_seconds / greatest(coalesce(o.stretch, 1), 1) AS seconds
  FROM agent p LEFT JOIN agent o ON o.node = p.node AND o.host = p.host AND o.ts = p.ts AND o.probe = 'all'
    AND o.ts >= $from - INTERVAL '1 hour' AND o.ts < $to
  WHERE p.probe <> 'all' AND p.interval_seconds > 0
    AND ((p.ts >= $from AND p.ts < $to) OR (p.ts >= $from - INTERVAL '1 hour' AND p.ts < $from - INTERVAL '50 minutes'))
),
slowed AS (
  SELECT node, host, probe FROM pace GROUP BY node, host, probe
  HAVING min(seconds) FILTER (WHERE is_now) >= $rarer * max(seconds) FILTER (WHERE NOT is_now)
),
found AS (
  SELECT node, host, probe, 'is not sampled any more' AS what FROM vanished
  UNION ALL
  SELECT s.node, s.host, s.probe, 'is sampled far more rarely'
  FROM slowed s JOIN alive a ON a.node = s.node AND a.host = s.host
  UNION ALL
  SELECT node, host, probe, 'is sampled and does not arrive' FROM missing
),
sized AS (SELECT node, class, count(*) AS hosts FROM class GROUP BY node, class),
shared AS (
  SELECT f.node, c.class, f.probe, f.what, count(DISTINCT f.host) AS hosts
  FROM found f JOIN class c ON c.node = f.node AND c.host = f.host
  GROUP BY f.node, c.class, f.probe, f.what
),
driver AS (
  SELECT DISTINCT node, host FROM accelerator_event
  WHERE ts >= $from - INTERVAL '10 minutes' AND ts < $to
    AND kind IN ('lost', 'added', 'stalled', 'resumed', 'crashed', 'started')
)
SELECT f.node, f.host, f.probe, f.what
FROM found f
LEFT JOIN class c ON c.node = f.node AND c.host = f.host
LEFT JOIN sized z ON z.node = c.node AND z.class = c.class
LEFT JOIN shared s ON s.node = c.node AND s.class = c.class AND s.probe = f.probe AND s.what = f.what
WHERE NOT (coalesce(s.hosts, 1) >= 3 AND s.hosts >= $rollout_ratio * z.hosts)
  AND NOT (f.probe LIKE 'accelerator%'
    AND EXISTS (SELECT 1 FROM driver v WHERE v.node = f.node AND v.host = f.host))
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = f.node AND (q.host = '' OR q.host = f.host))

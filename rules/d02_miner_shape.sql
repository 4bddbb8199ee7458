/*
title = "Accelerator computes like a miner"
every = "10m"
window = "30m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
busy_ratio = { value = 0.9, unit = "ratio", help = "Least load of the cores, the mean of every minute." }
steady_ratio = { value = 0.03, unit = "ratio", help = "Largest standard deviation of the power, by its mean." }
tensor_ratio = { value = 0.01, unit = "ratio", help = "Largest use of matrix units in any minute." }
bytes_per_second = { value = 1000000, unit = "bytes_per_second", help = "Most that goes over PCIe and over the links to other devices, each." }
minutes = { value = 28, unit = "1", help = "Minutes of the thirty that must be known." }
names = { value = "^(xmrig|xmr-stak|t-rex|trex|lolminer|nbminer|gminer|miner|ethminer|phoenixminer|teamredminer|bminer|cgminer|bfgminer|sgminer|ccminer|cpuminer|minerd|minergate|srbminer|nanominer|claymore|wildrig|kawpow|nicehash|rigel|onezerominer|bzminer)", unit = "regular expression", help = "Names of miners, as in rule d03." }
ports = { value = ",3333,3334,3335,4444,5555,6666,7777,8888,9999,14433,14444,20580,45560,45700,", unit = "ports", help = "Ports of pools, with commas around each." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "20m"
key = ["node", "host", "device"]
summary = "{host}: accelerator {device} computes evenly, without matrix units and without data, as miners do; {reason}"
techniques = ["T1496.001"]
guard = "The shape alone says nothing: many simulations have it. A program with a miner's name, one talking to a pool's port, or one that is neither packaged nor approved must be on the device; users approved for steady load are left out, as is maintenance."
*/
-- Reads: accelerator_1m and connection, 30 min; accelerator_process, 5 min; executable and allocation, 95 min.
WITH quiet AS (
  SELECT node, host, coalesce(device, '') AS device FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
shape AS (
  SELECT node, host, device, count(*) AS minutes,
    min(coalesce(core_active_ratio_mean, utilization_mean_ratio_mean, utilization_ratio_mean)) AS busy,
    avg(power_watts_mean) AS watts, stddev_pop(power_watts_mean) / nullif(avg(power_watts_mean), 0) AS unsteady,
    max(tensor_active_ratio_mean) AS tensor,
    max(coalesce((pcie_received_bytes_increase + pcie_transmitted_bytes_increase) / 60.0,
      pcie_received_bytes_per_second_mean + pcie_transmitted_bytes_per_second_mean)) AS pcie,
    max(coalesce((link_received_bytes_increase + link_transmitted_bytes_increase) / 60.0,
      link_received_bytes_per_second_mean + link_transmitted_bytes_per_second_mean)) AS links
  FROM accelerator_1m WHERE ts >= $from AND ts < $to
  GROUP BY node, host, device
),
-- What is not known does not speak against it; but the power must be known, and one of the three.
miner_like AS (
  SELECT * FROM shape
  WHERE minutes >= $minutes AND busy > $busy_ratio AND unsteady < $steady_ratio
    AND coalesce(tensor, 0) < $tensor_ratio AND coalesce(pcie, 0) < $bytes_per_second
    AND coalesce(links, 0) < $bytes_per_second AND coalesce(tensor, pcie, links) IS NOT NULL
),
program AS (
  SELECT node, host, device, pid, max(name) AS name, max(uid) AS uid FROM accelerator_process
  WHERE ts >= $to - INTERVAL '5 minutes' AND ts < $to GROUP BY node, host, device, pid
),
unlisted AS (
  SELECT e.node, e.host, e.pid, ',' || coalesce(e.pids, '') || ',' AS pids, e.path, e.reason
  FROM executable e
  WHERE e.ts >= $from - INTERVAL '65 minutes' AND e.ts < $to AND e.state <> 'removed'
    AND regexp_like(e.reason, 'memfd|deleted|temporary|unpackaged|modified')
    AND NOT EXISTS (
      SELECT 1 FROM approved a
      WHERE a.kind = 'executable' AND (a.node = '' OR a.node = e.node) AND (a.host = '' OR a.host = e.host)
        AND a.name = e.path AND (a.value = '*' OR a.value = e.sha256)
        AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
),
pool AS (
  SELECT DISTINCT node, host, pid, port, remote_prefix FROM connection
  WHERE ts >= $from AND ts < $to AND protocol = 'tcp' AND direction = 'out' AND established > 0
    AND remote_scope = 'global' AND strpos($ports, ',' || port::varchar || ',') > 0
),
suspect AS (
  SELECT node, host, device, 'it is named ' || name AS reason, 2 AS score
  FROM program WHERE regexp_like(name, $names, 'i')
  UNION ALL
  SELECT p.node, p.host, p.device, p.name || ' talks to ' || c.remote_prefix || ' port ' || c.port::varchar, 2
  FROM program p JOIN pool c ON c.node = p.node AND c.host = p.host AND c.pid = p.pid
  UNION ALL
  SELECT p.node, p.host, p.device, u.path || ' is ' || u.reason, 1
  FROM program p JOIN unlisted u ON u.node = p.node AND u.host = p.host
    AND (u.pid = p.pid OR strpos(u.pids, ',' || p.pid::varchar || ',') > 0)
),
steady_user AS (
  SELECT l.node, l.host, l.device
  FROM allocation l JOIN approved a ON a.kind = 'account' AND a.value = 'steady_load' AND a.name IN (l.user, l.project)
  WHERE l.ts >= $from - INTERVAL '65 minutes' AND l.ts < $to AND l.state = 'held'
    AND (a.node = '' OR a.node = l.node) AND (a.host = '' OR a.host = l.host)
    AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from)
)
SELECT m.node, m.host, m.device, m.watts, m.unsteady, 3 + max(s.score) AS score,
  string_agg(DISTINCT s.reason, '; ') AS reason
FROM miner_like m JOIN suspect s ON s.node = m.node AND s.host = m.host AND s.device = m.device
WHERE NOT EXISTS (
    SELECT 1 FROM steady_user u WHERE u.node = m.node AND u.host = m.host AND u.device = m.device)
  AND NOT EXISTS (
    SELECT 1 FROM quiet q
    WHERE q.node = m.node AND (q.host = '' OR q.host = m.host) AND (q.device = '' OR q.device = m.device))
GROUP BY m.node, m.host, m.device, m.watts, m.unsteady

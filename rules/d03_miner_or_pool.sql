/*
title = "Miner's program, or a long talk with a pool"
every = "5m"
window = "10m"
wait = "1m"
restate = "1d"
sink = "alert"

[parameters]
names = { value = "^(xmrig|xmr-stak|t-rex|trex|lolminer|nbminer|gminer|miner$|ethminer|phoenixminer|teamredminer|bminer|cgminer|bfgminer|sgminer|ccminer|cpuminer|minerd|minergate|srbminer|nanominer|claymore|wildrig|kawpow|nicehash|rigel|onezerominer|bzminer)", unit = "regular expression", help = "Names of programs, 15 letters at most, compared without regard to case." }
ports = { value = ",3333,3334,3335,4444,5555,6666,7777,8888,9999,14433,14444,20580,45560,45700,", unit = "ports", help = "Ports that pools listen on (Stratum), with commas around each." }
oldest_seconds = { value = 600, unit = "seconds", help = "A miner keeps its connection: shorter ones do not count." }
bytes_per_second = { value = 10000, unit = "bytes_per_second", help = "A miner says little: faster ones do not count." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "what"]
summary = "{host}: {what}, user {uid}"
techniques = ["T1496.001", "T1071"]
guard = "Ports alone say nothing: the connection must go out to a public address, be old and slow, and belong to a program that has an accelerator open. Connections that come in (scanners) do not count, programs on the approved list neither. No name is looked up."
*/
-- Reads: process, accelerator_process and connection, 10 min.
WITH allowed AS (
  SELECT node, host, left(split_part(name, '/', -1), 15) AS name FROM approved
  WHERE kind = 'executable' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
named AS (
  SELECT node, host, name, uid FROM process
  WHERE ts >= $from AND ts < $to AND pid >= 0 AND regexp_like(name, $names, 'i')
  UNION ALL
  SELECT node, host, name, uid FROM accelerator_process
  WHERE ts >= $from AND ts < $to AND regexp_like(name, $names, 'i')
),
holds_accelerator AS (
  SELECT DISTINCT node, host, pid FROM accelerator_process WHERE ts >= $from AND ts < $to
  UNION
  SELECT DISTINCT node, host, pid FROM process WHERE ts >= $from AND ts < $to AND accelerators > 0
),
talk AS (
  SELECT node, host, port, remote_prefix, max(pid) AS pid, max(process) AS name, max(uid) AS uid,
    max(oldest_seconds) AS oldest,
    (coalesce(increase(sent_bytes, ts), 0) + coalesce(increase(received_bytes, ts), 0))
      / nullif(extract(epoch FROM max(ts) - min(ts)), 0) AS bytes_per_second
  FROM connection
  WHERE ts >= $from AND ts < $to AND protocol = 'tcp' AND direction = 'out' AND established > 0
    AND remote_scope = 'global' AND strpos($ports, ',' || port::varchar || ',') > 0
  GROUP BY node, host, port, remote_prefix
),
found AS (
  SELECT node, host, name, uid, 'program ' || name AS what FROM named
  UNION ALL
  SELECT t.node, t.host, t.name, t.uid,
    coalesce(t.name, 'a program') || ' talks to ' || t.remote_prefix || ' port ' || t.port::varchar
  FROM talk t JOIN holds_accelerator h ON h.node = t.node AND h.host = t.host AND h.pid = t.pid
  WHERE t.oldest >= $oldest_seconds AND t.bytes_per_second <= $bytes_per_second
)
SELECT f.node, f.host, f.what, max(f.uid) AS uid
FROM found f
WHERE NOT EXISTS (
  SELECT 1 FROM allowed a
  WHERE a.name = f.name AND (a.node = '' OR a.node = f.node) AND (a.host = '' OR a.host = f.host))
GROUP BY f.node, f.host, f.what

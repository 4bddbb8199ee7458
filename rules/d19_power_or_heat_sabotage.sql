/*
title = "Power or heat turned against the machines"
every = "5m"
window = "10m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
limit_ratio = { value = 0.02, unit = "ratio", help = "A limit that moves by more has been changed." }
hosts = { value = 5, unit = "1", help = "Hosts of a node that stop or start anew within five minutes." }
throttled_ratio = { value = 0.8, unit = "ratio", help = "Part of the accelerators of a rack that is slowed down." }
devices = { value = 8, unit = "1", help = "Accelerators the rack must have." }
inlet_celsius = { value = 32, unit = "celsius", help = "Air that goes in and is cooler is not the cause." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "device", "what"]
summary = "{what} {host} {device}: {measured:.0f}"
techniques = ["T1529", "T1499", "T1495"]
guard = "Limits on the approved list (a capping policy) and changes within maintenance; hosts of a rack in which a power supply has lost its feed stop for that; accelerators in warm air are slowed by the cooling, and a rack whose inlet nobody measures is not judged. Hosts that only fall silent may be behind a broken switch: those that stop say so, or come back with a new start."
*/
-- Reads: accelerator_1m, 11 min; service, host, power and sensor, 15 min.
WITH quiet AS (
  SELECT node, host, coalesce(device, '') AS device FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
rack_of AS (
  SELECT node, host, max(rack) AS rack FROM registration
  WHERE device = '' AND valid_from < $to AND (valid_to IS NULL OR valid_to >= $to) GROUP BY node, host
),
card AS (
  SELECT node, host, device, max(model) AS model,
    count(*) FILTER (WHERE regexp_like(throttle_reasons, 'hardware_thermal|power_brake')) >= 4 AS slowed
  FROM accelerator_1m WHERE ts >= $to - INTERVAL '5 minutes' AND ts < $to
  GROUP BY node, host, device HAVING max(parent) IS NULL
),
cap AS (
  SELECT node, host, device, min(power_limit_watts_min) AS lowest, max(power_limit_watts_max) AS highest,
    last(power_limit_watts_last, ts) AS watts
  FROM accelerator_1m WHERE ts >= $from - INTERVAL '1 minute' AND ts < $to GROUP BY node, host, device
),
capped AS (
  SELECT p.node, p.host, p.device, p.watts FROM cap p
  LEFT JOIN card c ON c.node = p.node AND c.host = p.host AND c.device = p.device
  WHERE p.highest - p.lowest > $limit_ratio * p.highest
    AND NOT EXISTS (
      SELECT 1 FROM approved a
      WHERE a.kind = 'power_limit' AND a.name IN ('*', c.model) AND a.value IN ('*', round(p.watts)::bigint::varchar)
        AND (a.node = '' OR a.node = p.node) AND (a.host = '' OR a.host = p.host)
        AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
),
no_feed AS (
  SELECT DISTINCT p.node, r.rack
  FROM power p JOIN rack_of r ON r.node = p.node AND r.host = p.host
  WHERE p.ts >= $from - INTERVAL '5 minutes' AND p.ts < $to AND p.source = 'power_supply' AND p.online = false
),
boot AS (
  SELECT node, host, to_timestamp_seconds(max(boot_time_seconds)) AS began,
    max(boot_time_seconds) - min(boot_time_seconds) AS moved
  FROM host WHERE ts >= $from - INTERVAL '5 minutes' AND ts < $to GROUP BY node, host
),
went AS (
  SELECT node, host, min(ts) AS ts FROM service
  WHERE ts >= $from AND ts < $to AND unit = 'systemd' AND manager_state = 'stopping' GROUP BY node, host
  UNION ALL
  -- A clock that is set moves the start a little; a start moves it to now.
  SELECT node, host, began FROM boot WHERE moved > 60 AND began >= $from AND began < $to
),
gone AS (
  SELECT w.node, w.host, min(w.ts) AS ts FROM went w
  LEFT JOIN rack_of r ON r.node = w.node AND r.host = w.host
  WHERE NOT EXISTS (SELECT 1 FROM no_feed f WHERE f.node = w.node AND f.rack = r.rack)
    AND NOT EXISTS (
      SELECT 1 FROM quiet q WHERE q.node = w.node AND q.device = '' AND (q.host = '' OR q.host = w.host))
  GROUP BY w.node, w.host
),
together AS (
  SELECT node, count(*) OVER (
    PARTITION BY node ORDER BY ts RANGE BETWEEN INTERVAL '5 minutes' PRECEDING AND CURRENT ROW) AS hosts
  FROM gone
),
inlet AS (
  SELECT s.node, r.rack, max(s.temp_celsius) AS celsius
  FROM sensor s JOIN rack_of r ON r.node = s.node AND r.host = s.host
  WHERE s.ts >= $from AND s.ts < $to AND s.kind = 'temp' AND regexp_like(s.label, 'inlet', 'i')
  GROUP BY s.node, r.rack
),
rack AS (
  SELECT c.node, r.rack, count(*) AS devices,
    sum(CASE WHEN c.slowed THEN 1 ELSE 0 END) AS slowed
  FROM card c JOIN rack_of r ON r.node = c.node AND r.host = c.host
  WHERE r.rack IS NOT NULL
    AND NOT EXISTS (
      SELECT 1 FROM quiet q
      WHERE q.node = c.node AND (q.host = '' OR q.host = c.host) AND (q.device = '' OR q.device = c.device))
  GROUP BY c.node, r.rack
)
SELECT f.node, f.host, f.device, f.what, f.measured
FROM (
  SELECT p.node, p.host, p.device, 'power limit changed to' AS what, p.watts AS measured
  FROM capped p
  WHERE NOT EXISTS (
    SELECT 1 FROM quiet q
    WHERE q.node = p.node AND (q.host = '' OR q.host = p.host) AND (q.device = '' OR q.device = p.device))
  UNION ALL
  SELECT node, '', '', 'hosts stop or start anew together', max(hosts)
  FROM together GROUP BY node HAVING max(hosts) >= $hosts
  UNION ALL
  SELECT k.node, '', k.rack, 'a rack is slowed down though its air is cool, accelerators', k.slowed
  FROM rack k JOIN inlet i ON i.node = k.node AND i.rack = k.rack
  WHERE k.devices >= $devices AND k.slowed >= $throttled_ratio * k.devices AND i.celsius < $inlet_celsius
) f

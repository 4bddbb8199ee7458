/*
title = "Values that cannot be true"
every = "10m"
window = "10m"
wait = "2m"
restate = "1d"
sink = "alert"

[parameters]
busy_ratio = { value = 0.9, unit = "ratio", help = "Load from which a device must draw more than when idle." }
idle_factor = { value = 1.3, unit = "1", help = "Power up to so many times that of idle devices of the model counts as idle." }
idle_share = { value = 0.12, unit = "ratio", help = "Idle power as a share of the limit, where no three devices of the model are idle." }
energy_ratio = { value = 0.1, unit = "ratio", help = "How far energy may be from power times time, after what is usual for the model." }
minutes = { value = 8, unit = "1", help = "Minutes of the ten that must be known, and in which it holds." }
line_ratio = { value = 1.1, unit = "ratio", help = "Bytes a second on a line, by its speed." }
virtual_drivers = { value = ",virtio_net,vmxnet3,hv_netvsc,xen_netfront,ena,gve,", unit = "drivers", help = "Drivers whose speed is only a word, with commas around each." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "20m"
key = ["node", "host", "device", "what"]
summary = "{host}: {device} {what}: {measured:.2f} where {expected:.2f} would be right"
techniques = ["T1565.002"]
guard = "Idle power and the usual error of the energy counter are taken from the other devices of the model at the same time; minutes after a gap or a reset of a counter do not count; partitions and cards cut into partitions are left out; interfaces of virtual machines too; maintenance."
*/
-- Reads: accelerator_1m and interface_1m, 11 min.
WITH quiet AS (
  SELECT node, host, coalesce(device, '') AS device FROM maintenance
  WHERE starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
row_of AS (
  SELECT m.node, m.host, m.device, m.model, m.ts,
    coalesce(m.utilization_mean_ratio_mean, m.utilization_ratio_mean) AS busy,
    coalesce(m.power_mean_watts_mean, m.power_watts_mean) AS watts,
    m.temperature_celsius_mean AS celsius, m.power_limit_watts_last AS limit_watts,
    m.energy_joules_increase AS joules, m.energy_joules_last AS meter,
    lag(m.ts) OVER w AS ts_before, lag(m.energy_joules_last) OVER w AS meter_before,
    m.samples >= 0.9 * coalesce(m.expected, m.samples) AS whole
  FROM accelerator_1m m
  WHERE m.ts >= $from - INTERVAL '1 minute' AND m.ts < $to
    AND m.parent IS NULL AND coalesce(m.mig_enabled, false) = false
  WINDOW w AS (PARTITION BY m.node, m.host, m.device ORDER BY m.ts)
),
minute AS (SELECT * FROM row_of WHERE ts >= $from),
-- What the model draws when idle, by its idle devices of now.
idle AS (
  SELECT model, median(watts) AS watts FROM minute WHERE busy < 0.05
  GROUP BY model HAVING count(DISTINCT device) >= 3
),
loaded AS (
  SELECT m.node, m.host, m.device, avg(m.watts) AS watts,
    coalesce(max(i.watts) * $idle_factor, max(m.limit_watts) * $idle_share) AS idle_watts
  FROM minute m LEFT JOIN idle i ON i.model = m.model
  GROUP BY m.node, m.host, m.device
  HAVING count(*) >= $minutes AND min(m.busy) >= $busy_ratio
),
energy AS (
  SELECT node, host, device, model, sum(joules) / nullif(sum(watts) * 60, 0) AS ratio
  FROM minute
  WHERE whole AND joules IS NOT NULL AND watts IS NOT NULL
    AND ts_before = ts - INTERVAL '1 minute' AND meter >= meter_before
  GROUP BY node, host, device, model HAVING count(*) >= $minutes
),
usual AS (
  SELECT model, median(ratio) AS ratio FROM energy GROUP BY model HAVING count(*) >= 5
),
twin AS (
  SELECT node, host, ts, busy, watts, celsius FROM minute WHERE busy > 0.05
  GROUP BY node, host, ts, busy, watts, celsius HAVING count(DISTINCT device) >= 2
),
line AS (
  SELECT i.node, i.host, i.interface, i.ts, i.speed_bits_per_second_max / 8.0 AS speed,
    greatest(i.rx_bytes_increase, i.tx_bytes_increase) / 60.0 AS bytes_per_second,
    lag(i.ts) OVER (PARTITION BY i.node, i.host, i.interface ORDER BY i.ts) AS ts_before
  FROM interface_1m i
  WHERE i.ts >= $from - INTERVAL '1 minute' AND i.ts < $to AND i.driver IS NOT NULL AND i.kind IS NULL
    AND strpos($virtual_drivers, ',' || i.driver || ',') = 0
),
found AS (
  SELECT node, host, device, 'is fully loaded at the power of an idle one, watts' AS what,
    watts AS measured, idle_watts AS expected
  FROM loaded WHERE watts < idle_watts
  UNION ALL
  SELECT e.node, e.host, e.device, 'counts another energy than its power makes', e.ratio, coalesce(u.ratio, 1)
  FROM energy e LEFT JOIN usual u ON u.model = e.model
  WHERE abs(e.ratio / coalesce(u.ratio, 1) - 1) > $energy_ratio
  UNION ALL
  SELECT m.node, m.host, m.device, 'has exactly the values of another device, minutes', count(*), 0
  FROM minute m JOIN twin t ON t.node = m.node AND t.host = m.host AND t.ts = m.ts
    AND t.busy = m.busy AND t.watts = m.watts AND t.celsius = m.celsius
  GROUP BY m.node, m.host, m.device
  HAVING count(*) >= $minutes AND stddev_pop(m.watts) > 0.005 * avg(m.watts)
  UNION ALL
  SELECT node, host, interface, 'moved more bytes than its line can carry, bytes a second', max(bytes_per_second), max(speed)
  FROM line
  WHERE ts >= $from AND ts_before = ts - INTERVAL '1 minute' AND bytes_per_second > speed * $line_ratio
  GROUP BY node, host, interface
)
SELECT f.node, f.host, f.device, f.what, f.measured, f.expected FROM found f
WHERE NOT EXISTS (
  SELECT 1 FROM quiet q
  WHERE q.node = f.node AND (q.host = '' OR q.host = f.host) AND (q.device = '' OR q.device = f.device))

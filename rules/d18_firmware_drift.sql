/*
title = "Firmware or driver is not what was approved"
every = "10m"
window = "10m"
wait = "1m"
restate = "0s"
sink = "alert"

[parameters]
rollout_ratio = { value = 0.2, unit = "ratio", help = "Where no versions are approved: when so many of the same kind, and three at least, have the new version, it was rolled out." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "20m"
key = ["node", "host", "device", "kind"]
summary = "{host}: {kind} {value} of {name} {what}"
techniques = ["T1542.002", "T1195.003"]
guard = "Approved versions may be several at a time, so staged rollouts are known before they begin; a replaced card (RMA) has no version before its own; maintenance, for versions that change and for those that are not approved yet."
*/
-- Reads: accelerator_1m and host, 10 min now and an hour before.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE starts < $to AND ends > $from - INTERVAL '70 minutes' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
allowed AS (
  SELECT node, host, kind, name, value FROM approved
  WHERE kind IN ('driver', 'firmware') AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
seen AS (
  SELECT node, host, device, vendor, model, driver_version, firmware_version, parent, ts, ts >= $from AS is_now
  FROM accelerator_1m
  WHERE (ts >= $from AND ts < $to) OR (ts >= $from - INTERVAL '1 hour' AND ts < $to - INTERVAL '1 hour')
),
machine AS (
  SELECT node, host, coalesce(product, '') AS product, bios_version, ts, ts >= $from AS is_now
  FROM host
  WHERE (ts >= $from AND ts < $to) OR (ts >= $from - INTERVAL '1 hour' AND ts < $to - INTERVAL '1 hour')
),
item AS (
  SELECT node, host, device, 'driver' AS kind, vendor AS name, is_now, last(driver_version, ts) AS value
  FROM seen WHERE parent IS NULL AND driver_version IS NOT NULL GROUP BY node, host, device, vendor, is_now
  UNION ALL
  SELECT node, host, device, 'firmware', model, is_now, last(firmware_version, ts)
  FROM seen WHERE parent IS NULL AND firmware_version IS NOT NULL GROUP BY node, host, device, model, is_now
  UNION ALL
  SELECT node, host, '', 'firmware', 'bios ' || product, is_now, last(bios_version, ts)
  FROM machine WHERE bios_version IS NOT NULL GROUP BY node, host, product, is_now
),
-- Versions in an order: parts padded to one length.
version AS (
  SELECT node, host, device, kind, name, is_now, value,
    concat(lpad(split_part(plain, '.', 1), 8, '0'), lpad(split_part(plain, '.', 2), 8, '0'),
      lpad(split_part(plain, '.', 3), 8, '0'), lpad(split_part(plain, '.', 4), 8, '0'),
      lpad(split_part(plain, '.', 5), 8, '0')) AS rank
  FROM (SELECT *, regexp_replace(value, '[^0-9A-Za-z]+', '.', 'g') AS plain FROM item)
),
now_is AS (SELECT * FROM version WHERE is_now),
was AS (SELECT * FROM version WHERE NOT is_now),
share AS (SELECT node, kind, name, value, count(*) AS items FROM now_is GROUP BY node, kind, name, value),
whole AS (SELECT node, kind, name, count(*) AS items FROM now_is GROUP BY node, kind, name),
approval AS (
  SELECT n.node, n.host, n.device, n.kind, count(a.value) > 0 AS listed, coalesce(bool_or(a.value IN ('*', n.value)), false) AS fits
  FROM now_is n LEFT JOIN allowed a ON a.kind = n.kind AND a.name = n.name
    AND (a.node = '' OR a.node = n.node) AND (a.host = '' OR a.host = n.host)
  GROUP BY n.node, n.host, n.device, n.kind
),
judged AS (
  SELECT n.node, n.host, n.device, n.kind, n.name, n.value, b.value AS value_before, p.listed, p.fits,
    n.value <> b.value AS changed, n.rank < b.rank AS lower,
    s.items >= 3 AND s.items >= $rollout_ratio * w.items AS rolled_out
  FROM now_is n
  JOIN approval p ON p.node = n.node AND p.host = n.host AND p.device = n.device AND p.kind = n.kind
  LEFT JOIN was b ON b.node = n.node AND b.host = n.host AND b.device = n.device AND b.kind = n.kind
  JOIN share s ON s.node = n.node AND s.kind = n.kind AND s.name = n.name AND s.value = n.value
  JOIN whole w ON w.node = n.node AND w.kind = n.kind AND w.name = n.name
)
SELECT j.node, j.host, j.device, j.kind, j.name, j.value, j.value_before,
  CASE WHEN j.listed AND NOT j.fits THEN 'is not approved'
    WHEN coalesce(j.lower, false) THEN 'is lower than an hour ago'
    ELSE 'changed' END AS what
FROM judged j
WHERE ((j.listed AND NOT j.fits)
    OR (coalesce(j.changed, false) AND (j.lower OR (NOT j.listed AND NOT j.rolled_out))))
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = j.node AND (q.host = '' OR q.host = j.host))

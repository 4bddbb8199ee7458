/*
title = "Kernel module or start-up file changed"
every = "5m"
window = "1h"
wait = "90s"
restate = "1d"
sink = "alert"

[parameters]
paths = { value = "^(/etc/ld\\.so\\.|/etc/systemd/system/|/etc/cron|/etc/anacrontab|/var/spool/cron/|/etc/modules|/etc/modprobe\\.d/|/etc/rc\\.local|/etc/profile|/root/|/etc/pam\\.d/)", unit = "regular expression", help = "Files that decide what is loaded or started." }
rollout_ratio = { value = 0.2, unit = "ratio", help = "When so many hosts of the class, and three at least, have the same contents within the hour, it was rolled out." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "1h"
key = ["node", "host", "what", "name"]
summary = "{host}: {what} {name} ({value})"
techniques = ["T1547.006", "T1014", "T1574.006"]
guard = "Modules of the kernel's own tree with its signature load at any time and do not count; others are approved by name, and version or checksum. A driver built anew (DKMS) and files changed by hand belong in a maintenance window. The same contents on 20 % of a class (three hosts at least) are a rollout. What is hidden counts always."
*/
-- Reads: module, 1 h and 3 h before; config_change and host, 1 h.
WITH quiet AS (
  SELECT node, host, starts, ends FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
allowed AS (
  SELECT node, host, kind, name, value FROM approved
  WHERE kind IN ('module', 'config') AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
class AS (
  SELECT node, host, concat_ws('/', max(os_id), max(os_version), max(product)) AS class
  FROM host WHERE ts >= $from AND ts < $to GROUP BY node, host
),
sized AS (SELECT node, class, count(*) AS hosts FROM class GROUP BY node, class),
loaded AS (
  SELECT node, host, module, coalesce(srcversion, version, '?') AS value, max(version) AS version, max(srcversion) AS srcversion,
    max(hidden_from) AS hidden_from, min(ts) AS ts
  FROM module
  WHERE ts >= $from AND ts < $to AND state <> 'removed' AND module <> '(kernel)'
    AND (out_of_tree OR proprietary OR signed = false OR hidden_from IS NOT NULL)
  GROUP BY node, host, module, coalesce(srcversion, version, '?')
),
-- Every module is told once an hour: what was there before is there in the hours before.
before AS (
  SELECT DISTINCT node, host, module, coalesce(srcversion, version, '?') AS value FROM module
  WHERE ts >= $from - INTERVAL '3 hours' AND ts < $from AND state <> 'removed'
),
reported AS (SELECT DISTINCT node, host FROM before),
written AS (
  SELECT node, host, path, coalesce(sha256, target, '?') AS value, min(ts) AS ts FROM config_change
  WHERE ts >= $from AND ts < $to AND regexp_like(path, $paths)
    AND (state = 'added' OR (state = 'changed' AND regexp_like(changed, 'contents|target')))
  GROUP BY node, host, path, coalesce(sha256, target, '?')
),
rollout AS (
  SELECT c.node, c.class, w.path, w.value
  FROM written w JOIN class c ON c.node = w.node AND c.host = w.host
  JOIN sized z ON z.node = c.node AND z.class = c.class
  GROUP BY c.node, c.class, w.path, w.value
  HAVING count(DISTINCT w.host) >= 3 AND count(DISTINCT w.host) >= $rollout_ratio * max(z.hosts)
),
found AS (
  SELECT node, host, 'a module hides:' AS what, module AS name, coalesce(hidden_from, '') AS value, ts
  FROM loaded WHERE hidden_from IS NOT NULL
  UNION ALL
  SELECT l.node, l.host, 'a module was loaded that is not approved:', l.module, l.value, l.ts
  FROM loaded l
  WHERE l.hidden_from IS NULL
    AND EXISTS (SELECT 1 FROM reported r WHERE r.node = l.node AND r.host = l.host)
    AND NOT EXISTS (
      SELECT 1 FROM before b WHERE b.node = l.node AND b.host = l.host AND b.module = l.module AND b.value = l.value)
    AND NOT EXISTS (
      SELECT 1 FROM allowed a
      WHERE a.kind = 'module' AND a.name = l.module AND a.value IN ('*', l.version, l.srcversion)
        AND (a.node = '' OR a.node = l.node) AND (a.host = '' OR a.host = l.host))
  UNION ALL
  SELECT w.node, w.host, 'a file that starts things was changed:', w.path, w.value, w.ts
  FROM written w LEFT JOIN class c ON c.node = w.node AND c.host = w.host
  WHERE NOT EXISTS (
      SELECT 1 FROM rollout r WHERE r.node = w.node AND r.class = c.class AND r.path = w.path AND r.value = w.value)
    AND NOT EXISTS (
      SELECT 1 FROM allowed a
      WHERE a.kind = 'config' AND a.name = w.path AND a.value IN ('*', w.value)
        AND (a.node = '' OR a.node = w.node) AND (a.host = '' OR a.host = w.host))
)
SELECT f.node, f.host, f.what, f.name, f.value FROM found f
WHERE NOT EXISTS (
  SELECT 1 FROM quiet q
  WHERE q.node = f.node AND (q.host = '' OR q.host = f.host) AND q.starts <= f.ts AND q.ends >= f.ts)

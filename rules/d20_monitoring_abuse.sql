/*
title = "Somebody turns the monitoring itself"
every = "10m"
window = "1h"
wait = "90s"
restate = "0s"
sink = "alert"

[parameters]
days = { value = 7, unit = "days", help = "Maintenance of a whole node that is longer than this blinds rather than announces." }
retroactive_hours = { value = 24, unit = "hours", help = "Maintenance that is entered so long after it began explains away what was found." }
rollout_ratio = { value = 0.2, unit = "ratio", help = "When so many hosts of the class (or rules), and three at least, change alike, it was rolled out." }
paths = { value = "^/etc/nodescope/", unit = "regular expression", help = "Files that decide how long rows are kept, who may ask, and what is sampled." }
pauses = { value = 3, unit = "1", help = "A rule that has left out so many of its runs, and an hour, while others run, does not run any more." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "1h"
key = ["node", "host", "what", "name"]
summary = "{what} {name} {value}"
techniques = ["T1078", "T1565.001", "T1562.001", "T1685"]
guard = "A ticket: an approved entry of kind config, by the name of the import, the rule, the file or the agent's settings. The same settings on 20 % of a class of hosts, or of the rules (three at least), are a rollout or an upgrade. Maintenance, for settings alone: an entry of maintenance cannot excuse itself. Rules that stand still all together are a schedule that does. Who asked what is not recorded yet: bulk export and questions across tenants are not seen here, what changes the monitoring is: settings on the hosts of the monitoring (retention, users) among it, where an agent watches them."
*/
-- Reads: registry_maintenance and registry_approved, 1 h; schedule_run, 25 h of rules that alert; agent (row `all`), 1 h and 10 min before; config_change and host, 1 h.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
ticket AS (
  SELECT node, host, name, value FROM approved
  WHERE kind = 'config' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
    AND NOT (node = '' AND host = '' AND name = '*')
),
class AS (
  SELECT node, host, concat_ws('/', max(os_id), max(os_version), max(product)) AS class
  FROM host WHERE ts >= $from AND ts < $to GROUP BY node, host
),
sized AS (SELECT node, class, count(*) AS hosts FROM class GROUP BY node, class),
setting AS (
  SELECT n.node, n.host, n.value
  FROM (
    SELECT node, host, last(config_hash, ts) AS value FROM agent
    WHERE ts >= $from AND ts < $to AND probe = 'all' GROUP BY node, host) n
  JOIN (
    SELECT node, host, last(config_hash, ts) AS value FROM agent
    WHERE ts >= $from - INTERVAL '10 minutes' AND ts < $from AND probe = 'all' GROUP BY node, host) b
    ON b.node = n.node AND b.host = n.host
  WHERE n.value IS DISTINCT FROM b.value
),
setting_rollout AS (
  SELECT c.node, c.class, s.value
  FROM setting s JOIN class c ON c.node = s.node AND c.host = s.host
  JOIN sized z ON z.node = c.node AND z.class = c.class
  GROUP BY c.node, c.class, s.value
  HAVING count(*) >= 3 AND count(*) >= $rollout_ratio * max(z.hosts)
),
written AS (
  SELECT node, host, path, coalesce(sha256, target, '?') AS value FROM config_change
  WHERE ts >= $from AND ts < $to AND regexp_like(path, $paths)
    AND (state IN ('added', 'removed') OR (state = 'changed' AND regexp_like(changed, 'contents|target')))
  GROUP BY node, host, path, coalesce(sha256, target, '?')
),
written_rollout AS (
  SELECT c.node, c.class, w.path, w.value
  FROM written w JOIN class c ON c.node = w.node AND c.host = w.host
  JOIN sized z ON z.node = c.node AND z.class = c.class
  GROUP BY c.node, c.class, w.path, w.value
  HAVING count(*) >= 3 AND count(*) >= $rollout_ratio * max(z.hosts)
),
definition AS (
  SELECT rule, count(DISTINCT window_ends) AS runs, min(window_ends) AS oldest, max(window_ends) AS newest,
    last(definition, window_ends) FILTER (WHERE ts >= $from) AS value,
    last(definition, window_ends) FILTER (WHERE ts < $from) AS value_before
  FROM schedule_run
  WHERE ts >= $from - INTERVAL '1 day' AND ts < $to AND sink = 'alert' GROUP BY rule
),
redefined AS (SELECT rule, value FROM definition WHERE value <> value_before),
-- By the pace at which each has run.
pace AS (
  SELECT rule, newest, extract(epoch FROM $to - newest) AS seconds,
    extract(epoch FROM newest - oldest) / nullif(runs - 1, 0) AS period
  FROM definition WHERE runs >= 4
),
stopped AS (SELECT rule, newest FROM pace WHERE seconds > 3600 + $pauses * period),
upgrade AS (
  SELECT 1 AS it WHERE (SELECT count(*) FROM redefined) >= 3
    AND (SELECT count(*) FROM redefined) >= $rollout_ratio * (SELECT count(*) FROM definition)
),
found AS (
  SELECT node, '' AS host, 'a whole node is said to be under maintenance for long:' AS what, maintenance AS name,
    coalesce(import, '') AS value, 'import:' || coalesce(import, '') AS ticket
  FROM registry_maintenance
  WHERE ts >= $from AND ts < $to AND NOT coalesce(revoked, false) AND host = ''
    AND ends > starts + ($days || ' days')::interval
  UNION ALL
  SELECT node, host, 'maintenance is entered long after it began:', maintenance, coalesce(import, ''), 'import:' || coalesce(import, '')
  FROM registry_maintenance
  WHERE ts >= $from AND ts < $to AND NOT coalesce(revoked, false)
    AND starts < ts - ($retroactive_hours || ' hours')::interval
  UNION ALL
  SELECT node, host, 'anything is approved everywhere:', kind || ' ' || name, coalesce(import, ''), 'import:' || coalesce(import, '')
  FROM registry_approved
  WHERE ts >= $from AND ts < $to AND NOT coalesce(revoked, false) AND node = '' AND host = '' AND value = '*'
  UNION ALL
  SELECT '', '', 'a rule was changed:', rule, value, 'rule:' || rule
  FROM redefined WHERE NOT EXISTS (SELECT 1 FROM upgrade)
  UNION ALL
  SELECT '', '', 'a rule does not run any more:', rule, to_char(newest, '%Y-%m-%d %H:%M'), 'rule:' || rule
  FROM stopped
  WHERE EXISTS (SELECT 1 FROM pace p WHERE p.seconds <= 3600)
    AND ((SELECT count(*) FROM stopped) < 3
      OR (SELECT count(*) FROM stopped) < $rollout_ratio * (SELECT count(*) FROM definition))
  UNION ALL
  SELECT w.node, w.host, 'settings of the monitoring were changed:', w.path, w.value, w.path
  FROM written w LEFT JOIN class c ON c.node = w.node AND c.host = w.host
  WHERE NOT EXISTS (
      SELECT 1 FROM written_rollout r
      WHERE r.node = w.node AND r.class = c.class AND r.path = w.path AND r.value = w.value)
    AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = w.node AND (q.host = '' OR q.host = w.host))
  UNION ALL
  SELECT s.node, s.host, 'settings of an agent were changed:', s.host AS name, coalesce(s.value, 'no file'), 'agent'
  FROM setting s LEFT JOIN class c ON c.node = s.node AND c.host = s.host
  WHERE NOT EXISTS (
      SELECT 1 FROM setting_rollout r
      WHERE r.node = s.node AND r.class = c.class AND r.value IS NOT DISTINCT FROM s.value)
    AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = s.node AND (q.host = '' OR q.host = s.host))
)
SELECT f.node, f.host, f.what, f.name, max(f.value) AS value FROM found f
WHERE NOT EXISTS (
  SELECT 1 FROM ticket t
  WHERE t.name = f.ticket AND t.value IN ('*', f.value)
    AND (t.node = '' OR t.node = f.node) AND (t.host = '' OR t.host = f.host))
GROUP BY f.node, f.host, f.what, f.name

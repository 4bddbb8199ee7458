/*
title = "A program nobody knows has an accelerator open"
every = "5m"
window = "5m"
wait = "90s"
restate = "1d"
sink = "alert"

[parameters]
reasons = { value = "memfd|deleted|temporary|unpackaged|modified", unit = "regular expression", help = "Why a program is suspect, of the reasons of the table `executable`. `replaced` alone is an update." }

[alert]
severity = "critical"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "path"]
summary = "{host}: {path} ({reason}) has an accelerator open, user {uid}, outside of any job"
techniques = ["T1036.005", "T1059"]
guard = "Inside jobs, containers and pods users run what they like: there only root's programs count. Programs approved by path and hash; programs whose file was replaced by an update; maintenance."
*/
-- Reads: accelerator_process, 5 min; executable, 70 min; process, 5 min.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
user_of AS (
  SELECT node, host, pid, max(device) AS device, max(name) AS name, max(uid) AS uid,
    coalesce(max(job), max(pod), max(container)) AS job
  FROM accelerator_process WHERE ts >= $from AND ts < $to GROUP BY node, host, pid
  UNION
  SELECT node, host, pid, NULL, max(name), max(uid), coalesce(max(job), max(pod), max(container))
  FROM process WHERE ts >= $from AND ts < $to AND accelerators > 0 AND pid > 0 GROUP BY node, host, pid
),
-- Told once an hour, and when something changes: how each file stands.
file AS (
  SELECT node, host, path, device, inode, last(state, ts) AS state, last(reason, ts) AS reason, last(sha256, ts) AS sha256,
    last(pid, ts) AS pid, ',' || coalesce(last(pids, ts), '') || ',' AS pids
  FROM executable WHERE ts >= $from - INTERVAL '65 minutes' AND ts < $to AND path <> '(others)'
  GROUP BY node, host, path, device, inode
)
SELECT u.node, u.host, f.path, max(f.reason) AS reason, max(f.sha256) AS sha256, max(u.device) AS device,
  max(u.uid) AS uid, max(u.pid) AS pid
FROM user_of u JOIN file f ON f.node = u.node AND f.host = u.host
  AND (f.pid = u.pid OR strpos(f.pids, ',' || u.pid::varchar || ',') > 0)
WHERE f.state <> 'removed' AND regexp_like(f.reason, $reasons)
  AND (u.job IS NULL OR u.uid = 0)
  AND NOT EXISTS (
    SELECT 1 FROM approved a
    WHERE a.kind = 'executable' AND a.name = f.path AND (a.value = '*' OR a.value = f.sha256)
      AND (a.node = '' OR a.node = f.node) AND (a.host = '' OR a.host = f.host)
      AND a.valid_from < $to AND (a.valid_to IS NULL OR a.valid_to > $from))
  AND NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = u.node AND (q.host = '' OR q.host = u.host))
GROUP BY u.node, u.host, f.path

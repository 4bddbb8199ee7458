/*
title = "Host looks for others: a scan from inside"
every = "5m"
window = "1h"
wait = "90s"
restate = "1d"
sink = "alert"

[parameters]
failed_ratio = { value = 0.5, unit = "ratio", help = "Part of the attempts that must fail." }
failed_per_second = { value = 50, unit = "1/s", help = "Attempts that fail in a second." }
seconds = { value = 30, unit = "seconds", help = "So long, together, within five minutes: three rows of ten seconds." }
ports = { value = 100, unit = "1", help = "Ports of one network tried within the hour." }
addresses = { value = 250, unit = "1", help = "Addresses tried within the hour." }

[alert]
severity = "warning"
for = "0s"
resolve_after = "15m"
key = ["node", "host", "what"]
summary = "{host}: {what} ({count:.0f})"
techniques = ["T1046", "T1018"]
guard = "What opens many connections and is answered is no scan: collectives that find each other (NCCL), Prometheus, schedulers. Those of them that must ask hosts that are gone are approved as sources, by the name of their program. Counters that began anew do not count."
*/
-- Reads: protocol, 5 min; connection, 1 h.
WITH quiet AS (
  SELECT node, host FROM maintenance
  WHERE coalesce(device, '') = ''
    AND starts < $to AND ends > $from AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
scanner AS (
  SELECT node, host, value FROM approved
  WHERE kind = 'source' AND name = 'scan' AND valid_from < $to AND (valid_to IS NULL OR valid_to > $from)
),
pair AS (
  SELECT node, host, extract(epoch FROM ts - lag(ts) OVER w) AS seconds,
    tcp_active_opens - lag(tcp_active_opens) OVER w AS opened,
    tcp_attempt_failures - lag(tcp_attempt_failures) OVER w AS failed
  FROM protocol WHERE ts >= $to - INTERVAL '5 minutes' AND ts < $to
  WINDOW w AS (PARTITION BY node, host ORDER BY ts)
),
storm AS (
  SELECT node, host, max(failed / seconds) AS rate FROM pair
  WHERE opened > 0 AND failed >= 0 AND seconds > 0
    AND failed > $failed_ratio * opened AND failed > $failed_per_second * seconds
  GROUP BY node, host HAVING sum(seconds) >= $seconds
),
-- A group that is seen once has had its whole count since.
talk AS (
  SELECT c.node, c.host, c.port, c.remote_prefix, max(c.remote_addresses) AS addresses,
    coalesce(increase(c.opened, c.ts), max(c.opened)) AS opened,
    coalesce(increase(c.given_up, c.ts), max(c.given_up)) AS given_up
  FROM connection c
  WHERE c.ts >= $from AND c.ts < $to AND c.direction = 'out' AND c.port > 0 AND c.remote_scope <> 'loopback'
    AND NOT EXISTS (
      SELECT 1 FROM scanner s
      WHERE (s.node = '' OR s.node = c.node) AND (s.host = '' OR s.host = c.host) AND s.value IN ('*', c.process))
  GROUP BY c.node, c.host, c.port, c.remote_prefix
),
tried AS (SELECT * FROM talk WHERE opened > 0 AND given_up > $failed_ratio * opened),
of_network AS (
  SELECT node, host, remote_prefix, count(DISTINCT port) AS ports, max(addresses) AS addresses
  FROM tried GROUP BY node, host, remote_prefix
),
found AS (
  SELECT node, host, 'connections fail, most of many a second' AS what, rate AS count FROM storm
  UNION ALL
  SELECT node, host, 'tries the ports of ' || remote_prefix, ports FROM of_network WHERE ports > $ports
  UNION ALL
  SELECT node, host, 'tries many addresses', sum(addresses) FROM of_network
  GROUP BY node, host HAVING sum(addresses) > $addresses
)
SELECT f.node, f.host, f.what, f.count::double AS count FROM found f
WHERE NOT EXISTS (SELECT 1 FROM quiet q WHERE q.node = f.node AND (q.host = '' OR q.host = f.host))
  AND NOT EXISTS (
    SELECT 1 FROM scanner s
    WHERE s.value = '*' AND (s.node = '' OR s.node = f.node) AND (s.host = '' OR s.host = f.host))

/*
title = "Link is worse than agreed"
every = "1m"
window = "5m"
wait = "30s"
sink = "alert"

[parameters]
least = { value = 30, unit = "1", help = "Probes that the window must have." }

[alert]
severity = "warning"
for = "5m"
resolve_after = "5m"
key = ["node", "host", "peer", "protocol"]
summary = "{host} to {peer} ({protocol}): {rtt_ms:.1f} ms there and back (limit {rtt_limit_ms:.1f}), {loss_ratio:.1%} lost (limit {loss_limit_ratio:.1%})"
techniques = []
guard = "Only peers that the registry has a limit for; enough probes; a peer under maintenance."
inhibited_by = ["host_silent"]
*/
-- Reads: link, 5 min.
WITH measured AS (
  SELECT node, host, peer, protocol, sum(sent) AS sent, sum(lost) AS lost,
    sum(rtt_mean_seconds * received) / nullif(sum(received), 0) AS rtt
  FROM link WHERE ts >= $from AND ts < $to AND sent > 0
  GROUP BY node, host, peer, protocol
)
SELECT m.node, m.host, m.peer, m.protocol, m.rtt * 1000 AS rtt_ms, p.rtt_limit_seconds * 1000 AS rtt_limit_ms,
  m.lost * 1.0 / m.sent AS loss_ratio, p.loss_limit_ratio
FROM measured m
JOIN peer p ON p.node = m.node AND p.peer = m.peer AND (p.host = '' OR p.host = m.host)
WHERE p.valid_from < $to AND (p.valid_to IS NULL OR p.valid_to > $to)
  AND m.sent >= $least AND (m.rtt > p.rtt_limit_seconds OR m.lost * 1.0 / m.sent > p.loss_limit_ratio)
  AND NOT EXISTS (
    SELECT 1 FROM maintenance w
    WHERE w.starts < $to AND w.ends > $from AND w.valid_from < $to AND (w.valid_to IS NULL OR w.valid_to > $from)
      AND ((w.node = m.node AND (w.host = '' OR w.host = m.host)) OR (w.node = p.to_node AND (w.host = '' OR w.host = p.to_host))))

/*
title = "Links of the last ten minutes"
question = "How are the ways between hosts? One row for each measuring host, peer and protocol, from the probes of the last ten minutes."

[columns]
node = "Node that measures."
host = "Host that measures."
peer = "Name of the peer."
protocol = "`udp` or `tcp`."
to_node = "Node of the peer, by the registry; NULL where it has none."
to_host = "Host of the peer, by the registry."
last_seen = "Newest row."
is_fresh = "Whether that is of the last two minutes."
sent = "Probes that ended."
received = "Probes that came back."
lost = "Probes that did not."
loss_ratio = "Share that was lost; NULL when none ended."
rtt_p50_seconds = "Median of the mean times there and back of ten seconds each."
rtt_p95_seconds = "Of the times that 99 of 100 probes did not exceed in ten seconds: what 95 of 100 of those do not exceed."
rtt_p99_seconds = "The same for 99 of 100."
rtt_max_seconds = "Longest time there and back."
rtt_limit_seconds = "Longest acceptable time, by the registry; NULL for none."
loss_limit_ratio = "Largest acceptable loss, by the registry; NULL for none."
bandwidth_bits_per_second = "What the link can carry, by the registry."
*/
WITH measured AS (
  SELECT node, host, peer, protocol,
    max(ts) AS last_seen,
    sum(sent) AS sent,
    sum(received) AS received,
    sum(lost) AS lost,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_mean_seconds) AS rtt_p50_seconds,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY rtt_p99_seconds) AS rtt_p95_seconds,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY rtt_p99_seconds) AS rtt_p99_seconds,
    max(rtt_max_seconds) AS rtt_max_seconds
  FROM link
  WHERE ts >= now() - INTERVAL '10 minutes' AND ts <= now() + INTERVAL '1 minute' AND peer <> '(answers)'
  GROUP BY node, host, peer, protocol
),
told AS (
  SELECT * FROM peer WHERE valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
)
SELECT m.node, m.host, m.peer, m.protocol,
  coalesce(o.to_node, a.to_node) AS to_node,
  coalesce(o.to_host, a.to_host) AS to_host,
  m.last_seen,
  m.last_seen >= fresh_since() AS is_fresh,
  m.sent, m.received, m.lost,
  CAST(m.lost AS DOUBLE PRECISION) / nullif(m.sent, 0) AS loss_ratio,
  m.rtt_p50_seconds, m.rtt_p95_seconds, m.rtt_p99_seconds, m.rtt_max_seconds,
  coalesce(o.rtt_limit_seconds, a.rtt_limit_seconds) AS rtt_limit_seconds,
  coalesce(o.loss_limit_ratio, a.loss_limit_ratio) AS loss_limit_ratio,
  coalesce(o.bandwidth_bits_per_second, a.bandwidth_bits_per_second) AS bandwidth_bits_per_second
FROM measured m
LEFT JOIN told o ON o.node = m.node AND o.host = m.host AND o.peer = m.peer
LEFT JOIN told a ON a.node = m.node AND a.host = '' AND a.peer = m.peer

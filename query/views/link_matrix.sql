/*
title = "Matrix of links"
question = "How far are nodes from each other, and which ways do not keep to what was agreed? One row for each measuring node, peer and protocol, over the hosts that measure, from the last ten minutes; ways whose newest probe is older than two minutes are left out of the figures and counted as `stale_links`."

[columns]
node = "Node that measures."
to_node = "Node of the peer; NULL where the registry has none."
to_host = "Host of the peer; NULL where the registry has none."
peer = "Name of the peer."
protocol = "`udp` or `tcp`."
links = "Hosts that measure this peer now."
stale_links = "Hosts that measured it, and not in the last two minutes."
sent = "Probes that ended."
lost = "Probes that did not come back."
loss_ratio = "Share that was lost."
rtt_p50_seconds = "Median over the hosts of their median times there and back."
rtt_p95_seconds = "Worst host's time that 95 of 100 do not exceed."
rtt_p99_seconds = "Worst host's time that 99 of 100 do not exceed."
rtt_max_seconds = "Longest time there and back."
tier = "The least of 1, 5 and 20 ms that the 99 of 100 keep to: `1 ms` as within a city, `5 ms` from a cluster to its city, `20 ms` between hubs, or `above`."
rtt_limit_seconds = "Longest acceptable time, by the registry."
loss_limit_ratio = "Largest acceptable loss, by the registry."
bandwidth_bits_per_second = "What the link can carry, by the registry."
rtt_breaches = "Hosts whose 99 of 100 are above the acceptable time."
loss_breaches = "Hosts whose loss is above the acceptable one."
reverse_rtt_p50_seconds = "Median the other way, from that node to this one; NULL where nobody measures it."
asymmetry_ratio = "How much larger the larger of the two medians is than the smaller: 0 when they are the same."
*/
WITH way AS (
  SELECT node, to_node, to_host, peer, protocol,
    count(*) FILTER (WHERE is_fresh) AS links,
    count(*) FILTER (WHERE NOT is_fresh) AS stale_links,
    sum(sent) FILTER (WHERE is_fresh) AS sent,
    sum(lost) FILTER (WHERE is_fresh) AS lost,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_p50_seconds) FILTER (WHERE is_fresh) AS rtt_p50_seconds,
    max(rtt_p95_seconds) FILTER (WHERE is_fresh) AS rtt_p95_seconds,
    max(rtt_p99_seconds) FILTER (WHERE is_fresh) AS rtt_p99_seconds,
    max(rtt_max_seconds) FILTER (WHERE is_fresh) AS rtt_max_seconds,
    max(rtt_limit_seconds) AS rtt_limit_seconds,
    max(loss_limit_ratio) AS loss_limit_ratio,
    max(bandwidth_bits_per_second) AS bandwidth_bits_per_second,
    count(*) FILTER (WHERE is_fresh AND rtt_p99_seconds > rtt_limit_seconds) AS rtt_breaches,
    count(*) FILTER (WHERE is_fresh AND loss_ratio > loss_limit_ratio) AS loss_breaches
  FROM link_now
  GROUP BY node, to_node, to_host, peer, protocol
),
other_way AS (
  SELECT node, to_node, protocol,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_p50_seconds) AS rtt_p50_seconds
  FROM link_now
  WHERE is_fresh AND to_node IS NOT NULL
  GROUP BY node, to_node, protocol
)
SELECT w.node, w.to_node, w.to_host, w.peer, w.protocol, w.links, w.stale_links, w.sent, w.lost,
  CAST(w.lost AS DOUBLE PRECISION) / nullif(w.sent, 0) AS loss_ratio,
  w.rtt_p50_seconds, w.rtt_p95_seconds, w.rtt_p99_seconds, w.rtt_max_seconds,
  CASE
    WHEN w.rtt_p99_seconds <= 0.001 THEN '1 ms'
    WHEN w.rtt_p99_seconds <= 0.005 THEN '5 ms'
    WHEN w.rtt_p99_seconds <= 0.02 THEN '20 ms'
    WHEN w.rtt_p99_seconds > 0.02 THEN 'above'
  END AS tier,
  w.rtt_limit_seconds, w.loss_limit_ratio, w.bandwidth_bits_per_second, w.rtt_breaches, w.loss_breaches,
  r.rtt_p50_seconds AS reverse_rtt_p50_seconds,
  -- `greatest` passes over NULL, so what is not known must be said.
  CASE WHEN w.rtt_p50_seconds > 0.0 AND r.rtt_p50_seconds > 0.0 THEN
    greatest(w.rtt_p50_seconds, r.rtt_p50_seconds) / least(w.rtt_p50_seconds, r.rtt_p50_seconds) - 1.0
  END AS asymmetry_ratio
FROM way w
LEFT JOIN other_way r ON r.node = w.to_node AND r.to_node = w.node AND r.protocol = w.protocol AND w.node <> w.to_node

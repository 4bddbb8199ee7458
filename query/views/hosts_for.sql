/*
title = "Hosts for a job"
question = "Who can host so many accelerators, at this precision, within this round-trip time? One row for each whole free host of fabrics that have enough of them, nearest first; those with `is_needed` are enough. A host whose agent or accelerators do not report, that is cordoned or being worked on, that has a bad network card or little memory, or of which anything is held or unhealthy, is not offered. As of the last two minutes."
[parameters]
accelerators = { type = "int", help = "Accelerators wanted, on whole hosts of one fabric." }
precision = { type = "text", help = "`fp64`, `fp32`, `tf32`, `bf16`, `fp16`, `fp8` or `int8`; figures are those without sparsity." }
device_flops = { value = 0.0, help = "Least operations a second of one accelerator at this precision: measured where it was measured, else nominal." }
rtt_seconds = { type = "float", optional = true, help = "Longest time there and back that 99 of 100 probes keep to; NULL for any. A host whose way nobody measures is then not offered.", unit = "seconds" }
from_node = { type = "text", optional = true, help = "Node from which it must be near; NULL for near to all peers that the host measures." }

[columns]
region = "Region of the node."
node = "The node."
fabric = "The network on which the hosts compute together; NULL for a host that has none."
host = "The host."
vendor = "Vendor of its accelerators."
model = "Their model."
accelerators = "Its accelerators, all of them free."
device_flops = "Operations a second of one of them."
basis = "Whether that is `measured` or `nominal`."
rtt_p99_seconds = "Time there and back that 99 of 100 probes keep to; NULL where nobody measures it."
fabric_hosts = "Such hosts of the fabric."
fabric_accelerators = "Their accelerators."
place = "Its place in the fabric, nearest first."
is_needed = "Whether the hosts before it are not enough."
last_seen = "When the oldest of its accelerators was seen: how fresh the answer is."
*/
WITH told AS (
  SELECT * FROM resource
  WHERE precision = $precision AND sparsity = 'dense'
    AND valid_from <= now() AND (valid_to IS NULL OR now() < valid_to)
),
figure AS (
  SELECT node, vendor, model,
    coalesce(min(device_flops) FILTER (WHERE basis = 'measured'), min(device_flops)) AS device_flops,
    CASE WHEN count(*) FILTER (WHERE basis = 'measured') > 0 THEN 'measured' ELSE 'nominal' END AS basis
  FROM told
  WHERE device_flops IS NOT NULL
  GROUP BY node, vendor, model
),
card AS (
  SELECT a.node, a.host,
    min(a.vendor) AS vendor,
    min(a.model) AS model,
    min(a.last_seen) AS last_seen,
    count(*) AS accelerators,
    count(f.device_flops) AS with_figure,
    min(f.device_flops) AS device_flops,
    min(f.basis) AS basis
  FROM accelerator_now a
  LEFT JOIN figure f ON f.node = a.node AND f.vendor = a.vendor AND f.model = a.model
  WHERE a.is_registered
  GROUP BY a.node, a.host
),
way AS (
  SELECT node, host, to_node, to_host, CASE WHEN received > 0 THEN rtt_p99_seconds ELSE 1e9 END AS rtt
  FROM link_now
  WHERE is_fresh
),
near AS (
  -- Without a node to be near to: every way the host measures.
  SELECT node, host, rtt FROM way WHERE $from_node IS NULL
  UNION ALL
  -- From the host to that node, and from that node to the host.
  SELECT node, host, rtt FROM way WHERE to_node = $from_node
  UNION ALL
  SELECT to_node, to_host, rtt FROM way WHERE node = $from_node AND to_host IS NOT NULL
  UNION ALL
  -- A way between the nodes stands for hosts that have none of their own.
  SELECT to_node, '', rtt FROM way WHERE node = $from_node AND to_node <> node
  UNION ALL
  SELECT node, '', rtt FROM way WHERE to_node = $from_node AND to_node <> node
),
distance AS (
  SELECT node, host, max(rtt) AS rtt FROM near GROUP BY node, host
),
fit AS (
  SELECT h.node, h.fabric, h.host, c.vendor, c.model, c.accelerators, c.device_flops, c.basis, c.last_seen,
    coalesce(o.rtt, n.rtt) AS rtt
  FROM host_fit h
  JOIN card c ON c.node = h.node AND c.host = h.host
  LEFT JOIN distance o ON o.node = h.node AND o.host = h.host
  LEFT JOIN distance n ON n.node = h.node AND n.host = ''
  WHERE h.is_whole AND NOT h.has_bad_nic AND NOT h.lacks_memory
    AND c.with_figure = c.accelerators AND c.device_flops >= $device_flops
    AND ($rtt_seconds IS NULL OR coalesce(o.rtt, n.rtt) <= $rtt_seconds)
),
ranked AS (
  SELECT *,
    count(*) OVER (PARTITION BY node, coalesce(fabric, host)) AS fabric_hosts,
    sum(accelerators) OVER (PARTITION BY node, coalesce(fabric, host)) AS fabric_accelerators,
    row_number() OVER (PARTITION BY node, coalesce(fabric, host) ORDER BY rtt NULLS LAST, host) AS place,
    sum(accelerators) OVER (
      PARTITION BY node, coalesce(fabric, host) ORDER BY rtt NULLS LAST, host
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS reached
  FROM fit
)
SELECT n.region, r.node, r.fabric, r.host, r.vendor, r.model, r.accelerators, r.device_flops, r.basis,
  nullif(r.rtt, 1e9) AS rtt_p99_seconds,
  r.fabric_hosts, r.fabric_accelerators, CAST(r.place AS BIGINT) AS place,
  r.reached - r.accelerators < $accelerators AS is_needed,
  r.last_seen
FROM ranked r
LEFT JOIN node n ON n.node = r.node AND n.valid_from <= now() AND (n.valid_to IS NULL OR now() < n.valid_to)
WHERE r.fabric_accelerators >= $accelerators

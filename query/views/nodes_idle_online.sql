/*
title = "Nodes that are online and compute nothing"
question = "Which nodes were there for the last seven days, have accelerators to give, and had nothing to do? One row for each node that was up for most of the time, on which nobody held an accelerator, whose accelerators hardly ran, and of which some are free now. A node whose use is not known is not one of them."
[parameters]
online_ratio = { value = 0.9, help = "Least share of its hosts' time in which they were up.", unit = "ratio" }
busy_ratio = { value = 0.01, help = "Largest mean of its accelerators' utilisation.", unit = "ratio" }

[columns]
region = "Region of the node."
industry = "Industry the node serves."
node = "The node."
online_ratio = "Share of its hosts' time in which they were up; unknown time is not."
busy_ratio = "Mean utilisation of its accelerators, by the driver."
busy_max_ratio = "Largest utilisation of one of them."
available_accelerators = "Accelerators that are free now."
registered_accelerators = "Accelerators registered now."
last_held = "When somebody last held one of them; NULL if nobody is known to have."
*/
WITH there AS (
  SELECT node,
    CAST(sum(up_seconds) AS DOUBLE PRECISION)
      / nullif(sum(up_seconds + down_seconds + unknown_seconds + maintenance_seconds), 0) AS online
  FROM availability_1h
  WHERE ts >= now() - INTERVAL '7 days'
  GROUP BY node
),
used AS (
  SELECT node,
    sum(coalesce(utilization_mean_ratio_mean, utilization_ratio_mean) * samples)
      / nullif(sum(samples) FILTER (WHERE coalesce(utilization_mean_ratio_mean, utilization_ratio_mean) IS NOT NULL), 0)
      AS busy,
    max(coalesce(utilization_max_ratio_max, utilization_ratio_max)) AS busiest
  FROM accelerator_1h
  WHERE ts >= now() - INTERVAL '7 days' AND parent IS NULL
  GROUP BY node
),
held AS (
  SELECT node, max(coalesce(ended, ts)) AS last_held
  FROM allocation
  WHERE state <> 'refused' AND device <> 'none'
  GROUP BY node
),
card AS (
  SELECT node, count(*) AS registered, count(*) FILTER (WHERE state = 'free') AS free
  FROM accelerator_now
  WHERE is_registered
  GROUP BY node
)
SELECT n.region, n.industry, t.node,
  t.online AS online_ratio,
  u.busy AS busy_ratio,
  u.busiest AS busy_max_ratio,
  c.free AS available_accelerators,
  c.registered AS registered_accelerators,
  h.last_held
FROM there t
JOIN used u ON u.node = t.node
JOIN card c ON c.node = t.node
LEFT JOIN held h ON h.node = t.node
LEFT JOIN node n ON n.node = t.node AND n.valid_from <= now() AND (n.valid_to IS NULL OR now() < n.valid_to)
WHERE t.online >= $online_ratio AND u.busy <= $busy_ratio AND c.free > 0
  AND (h.last_held IS NULL OR h.last_held < now() - INTERVAL '7 days')

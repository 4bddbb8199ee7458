/*
title = "Times in which accelerators were held"
question = "When was an accelerator held, by whomever? Times that touch or overlap are one, whoever told them: several sources may tell of one job, and several jobs may share a card. A holder whose end nobody told holds until its newest row; one of the last 62 minutes is taken to hold still, because what is held is told anew every hour. As fresh as `allocation`."
[columns]
node = "Node."
host = "Host."
device = "The accelerator."
began = "When it began to be held; where the begin is unknown, when that was first seen."
ended = "When it was free again; now while it is held."
is_open = "Whether it is held still."
*/
WITH span AS (
  SELECT s.node, s.host, COALESCE(a.device, s.device) AS device,
    COALESCE(s.began, s.first_seen) AS began,
    CASE
      WHEN s.ended IS NOT NULL THEN s.ended
      WHEN s.last_seen >= fresh_since() - INTERVAL '1 hour' THEN now()
      ELSE s.last_seen
    END AS ended,
    s.ended IS NULL AND s.last_seen >= fresh_since() - INTERVAL '1 hour' AS is_open
  FROM allocation_span s
  -- Some sources name an accelerator by its address or its number.
  LEFT JOIN accelerator_alias a ON a.node = s.node AND a.host = s.host AND a.alias = s.device
  WHERE s.device <> 'none'
),
reach AS (
  SELECT *, MAX(ended) OVER (
    PARTITION BY node, host, device ORDER BY began, ended ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ) AS reached
  FROM span
  WHERE ended > began
),
island AS (
  SELECT *, SUM(CASE WHEN reached IS NULL OR began > reached THEN 1 ELSE 0 END) OVER (
    PARTITION BY node, host, device ORDER BY began, ended ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS number
  FROM reach
)
SELECT node, host, device, MIN(began) AS began, MAX(ended) AS ended, BOOL_OR(is_open) AS is_open
FROM island
GROUP BY node, host, device, number

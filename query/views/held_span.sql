/*
title = "Times in which accelerators were held"
question = "When was an accelerator held, by whomever? Times that touch or overlap are one, whoever told them: several sources may tell of one job, and several jobs may share a card. A holder whose end nobody told holds until its newest row; one of the last 61 minutes is taken to hold still, because what is held is told anew every hour. As fresh as `allocation`."
[parameters]
since = { type = "timestamp", optional = true, help = "Begin of the time looked at: what ended before it is left out, and of what began before it the begin may be. All if it is left out." }
[columns]
node = "Node."
host = "Host."
device = "The accelerator."
began = "When it began to be held; where the begin is unknown, when that was first seen."
ended = "When it was free again; now while it is held."
is_open = "Whether it is held still."
*/
WITH span AS (
  SELECT node, host, device,
    COALESCE(began, first_seen) AS began,
    CASE
      WHEN ended IS NOT NULL THEN ended
      WHEN last_seen >= now() - INTERVAL '61 minutes' THEN now()
      ELSE last_seen
    END AS ended,
    ended IS NULL AND last_seen >= now() - INTERVAL '61 minutes' AS is_open
  -- What was held then has been told of in the hour before, or was seen first since.
  FROM allocation_span($since - INTERVAL '61 minutes')
  WHERE device <> 'none'
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

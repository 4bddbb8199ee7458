/*
title = "Times in which projects held accelerators"
question = "When did which project hold an accelerator, and how well is that known? One row for each time without a break. Times of one project that touch or overlap are one, whoever told them; where one source knows the project of a job and another does not, the job is the project's. A begin that nobody told is the first row, an end that nobody told is the newest row, so that both make times too short rather than too long; a holder told of in the last 61 minutes holds still, because what is held is told anew every hour. As fresh as `allocation`."
[columns]
node = "Node."
host = "Host."
device = "The accelerator."
project = "Project or account; NULL where nobody told."
began = "When it began."
ended = "When it ended; now while it lasts."
spans = "Rows of `allocation_span` that it is made of: the evidence."
unknown_begins = "Of them, those whose begin nobody told."
unknown_ends = "Of them, those whose end nobody told, though they hold no longer."
*/
WITH span AS (
  SELECT node, host, device,
    COALESCE(project, CASE WHEN job IS NOT NULL THEN MAX(project) OVER (PARTITION BY node, host, device, job) END)
      AS project,
    COALESCE(began, first_seen) AS began,
    CASE
      WHEN ended IS NOT NULL THEN ended
      WHEN last_seen >= now() - INTERVAL '61 minutes' THEN now()
      ELSE last_seen
    END AS ended,
    CASE WHEN began IS NULL THEN 1 ELSE 0 END AS unknown_begin,
    CASE WHEN ended IS NULL AND last_seen < now() - INTERVAL '61 minutes' THEN 1 ELSE 0 END AS unknown_end
  -- Of all time: whose a job is may have been told by another source, long ago.
  FROM allocation_span
  WHERE device <> 'none'
),
reach AS (
  SELECT *, MAX(ended) OVER (
    PARTITION BY node, host, device, project ORDER BY began, ended
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ) AS reached
  FROM span
  WHERE ended > began
),
island AS (
  SELECT *, SUM(CASE WHEN reached IS NULL OR began > reached THEN 1 ELSE 0 END) OVER (
    PARTITION BY node, host, device, project ORDER BY began, ended
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS number
  FROM reach
)
SELECT node, host, device, project, MIN(began) AS began, MAX(ended) AS ended, COUNT(*) AS spans,
  SUM(unknown_begin) AS unknown_begins, SUM(unknown_end) AS unknown_ends
FROM island
GROUP BY node, host, device, project, number

/*
title = "Ranks that hold up their job"
question = "Which rank of a job is slow, and by how much? One row for each job and rank that told its progress: work is the time of a step less the time it waited for others, for who waits is not who is slow, and it is set beside the median of the job's ranks. Jobs that tell nothing are judged by their accelerators: one row for each, with the share of cores that worked beside the job's median; much more or much less than the others is worth a look. As fresh as `progress`, `accelerator_1m` and `allocation`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; an hour ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
node = "Node."
job = "Number of the job."
basis = "`progress` where the job tells, else `core_active`."
rank = "Number of the rank; NULL by accelerators."
host = "Host."
device = "Its accelerator."
place = "Place in the job: 1 is the slowest rank, or the accelerator farthest from the median."
ranks = "Ranks, or accelerators, of the job."
steps = "Steps that it told of in this time."
step_seconds = "Mean time of a step."
wait_seconds = "Mean time of a step that it waited for others; NULL where it does not tell."
work_seconds = "Mean time of a step that it worked itself."
median_work_seconds = "Median of that, over the job's ranks."
slowness_ratio = "Its work for the median's: 1.2 is a fifth slower."
steps_behind = "Steps that the job's foremost rank is ahead of it."
core_active_ratio = "Share of cores that worked."
median_core_active_ratio = "Median of that, over the job's accelerators."
activity_ratio = "Its share for the median's."
*/
WITH told AS (
  SELECT node, job, rank, last(host, ts) AS host, last(device, ts) AS device,
    COUNT(DISTINCT step) AS steps,
    AVG(step_seconds) AS step_seconds,
    AVG(wait_seconds) AS wait_seconds,
    AVG(step_seconds - COALESCE(wait_seconds, 0.0)) AS work_seconds,
    MAX(step) AS step
  FROM progress
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 hour') AND ts < COALESCE($to, now())
  GROUP BY node, job, rank
),
job AS (
  SELECT node, job, COUNT(*) AS ranks, MEDIAN(work_seconds) AS median_work, MAX(step) AS foremost
  FROM told
  GROUP BY node, job
),
by_progress AS (
  SELECT t.node, t.job, 'progress' AS basis, t.rank, t.host, t.device,
    CAST(ROW_NUMBER() OVER (
      PARTITION BY t.node, t.job ORDER BY t.work_seconds DESC NULLS LAST, t.step NULLS LAST, t.rank
    ) AS BIGINT) AS place,
    j.ranks, t.steps, t.step_seconds, t.wait_seconds, t.work_seconds, j.median_work AS median_work_seconds,
    t.work_seconds / NULLIF(j.median_work, 0) AS slowness_ratio,
    j.foremost - t.step AS steps_behind,
    CAST(NULL AS DOUBLE) AS core_active_ratio,
    CAST(NULL AS DOUBLE) AS median_core_active_ratio,
    CAST(NULL AS DOUBLE) AS activity_ratio
  FROM told t
  JOIN job j ON j.node = t.node AND j.job = t.job
),
holding AS (
  SELECT DISTINCT s.node, s.host, s.device, s.job,
    COALESCE(s.began, s.first_seen) AS began,
    COALESCE(s.ended, CASE WHEN s.last_seen >= now() - INTERVAL '61 minutes' THEN now() ELSE s.last_seen END) AS ended
  FROM allocation_span(COALESCE($from, now() - INTERVAL '1 hour') - INTERVAL '61 minutes') s
  LEFT JOIN job j ON j.node = s.node AND j.job = s.job
  WHERE s.job IS NOT NULL AND s.device <> 'none' AND j.job IS NULL
),
-- Whole minutes within the allocation only: of others nobody knows whose work it was.
active AS (
  SELECT h.node, h.job, h.host, h.device, AVG(a.core_active_ratio_mean) AS core_active
  FROM holding h
  JOIN accelerator_1m a ON a.node = h.node AND a.host = h.host AND a.device = h.device
    AND a.ts >= h.began AND a.ts + INTERVAL '1 minute' <= h.ended
  WHERE a.ts >= COALESCE($from, now() - INTERVAL '1 hour') AND a.ts < COALESCE($to, now())
  GROUP BY h.node, h.job, h.host, h.device
),
middle AS (
  SELECT node, job, COUNT(*) AS ranks, MEDIAN(core_active) AS median_active
  FROM active
  GROUP BY node, job
)
SELECT * FROM by_progress
UNION ALL
SELECT a.node, a.job, 'core_active', NULL, a.host, a.device,
  CAST(ROW_NUMBER() OVER (
    PARTITION BY a.node, a.job ORDER BY ABS(a.core_active - m.median_active) DESC NULLS LAST, a.host, a.device
  ) AS BIGINT),
  m.ranks, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  a.core_active, m.median_active, a.core_active / NULLIF(m.median_active, 0)
FROM active a
JOIN middle m ON m.node = a.node AND m.job = a.job
ORDER BY node, job, basis, place

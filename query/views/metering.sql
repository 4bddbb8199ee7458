/*
title = "Metered and billed accelerator-hours"
question = "Do the accelerator-hours that were billed agree with those that were measured? One row for each bill, of those whose period lies in the time looked at, and one for what a project held beside all bills (period and billed hours NULL). Measured is how long the project held accelerators while they were registered under the identifier; the registration is that of the time, so that hours before and after a change stand under the identifier they belong to. An accelerator with entries of its own is judged by those, any other by the entries of its host. Hours without a registration have no identifier. `spans` and what is unknown of them say how good the measure is. As fresh as `allocation` and the registry."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 62 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
node = "Node."
identifier = "Identifier of the resource; NULL for hours without a registration."
project = "Project or account; NULL where nobody told."
period_starts = "Begin of the billed time; NULL for what no bill covers."
period_ends = "End of the billed time."
metered_hours = "Accelerator-hours that were measured."
billed_hours = "Accelerator-hours that were billed."
difference_hours = "Measured less billed: above zero was billed too little."
difference_ratio = "The same for the billed hours; NULL where nothing was billed."
accelerators = "Accelerators that were held."
spans = "Allocations behind the measure, as `allocation_span` tells them."
unknown_begins = "Of them, those whose begin nobody told: the measure may be too low."
unknown_ends = "Of them, those whose end nobody told: the measure may be too low."
*/
WITH held AS (
  SELECT node, host, device, project, spans, unknown_begins, unknown_ends,
    GREATEST(began, COALESCE($from, now() - INTERVAL '62 days')) AS began,
    LEAST(ended, COALESCE($to, now())) AS ended
  FROM held_by_project
  WHERE ended > COALESCE($from, now() - INTERVAL '62 days') AND began < COALESCE($to, now())
),
own AS (
  SELECT DISTINCT node, host, device FROM registration WHERE device <> ''
),
piece AS (
  SELECT h.node, h.host, h.device, h.project, h.began AS held_began, h.spans, h.unknown_begins, h.unknown_ends,
    r.identifier,
    GREATEST(h.began, r.valid_from) AS began,
    LEAST(h.ended, COALESCE(r.valid_to, h.ended)) AS ended
  FROM held h
  LEFT JOIN own ON own.node = h.node AND own.host = h.host AND own.device = h.device
  JOIN registration r ON r.node = h.node AND r.host = h.host AND r.device = COALESCE(own.device, '')
    AND r.valid_from < h.ended AND (r.valid_to IS NULL OR r.valid_to > h.began)
  WHERE r.identifier IS NOT NULL
),
bill AS (
  SELECT node, identifier, project, period_starts, period_ends, SUM(accelerator_hours) AS billed
  FROM billed
  WHERE period_starts >= COALESCE($from, now() - INTERVAL '62 days') AND period_ends <= COALESCE($to, now())
  GROUP BY node, identifier, project, period_starts, period_ends
),
billing AS (
  SELECT b.node, b.identifier, b.project, b.period_starts, b.period_ends, b.billed,
    p.host, p.device, p.spans, p.unknown_begins, p.unknown_ends,
    -- LEAST and GREATEST pass over NULL: without a piece they would say the whole period.
    CASE WHEN p.began IS NOT NULL THEN
      (CAST(LEAST(p.ended, b.period_ends) AS BIGINT) - CAST(GREATEST(p.began, b.period_starts) AS BIGINT)) / 3.6e9
    END AS hours
  FROM bill b
  LEFT JOIN piece p ON p.node = b.node AND p.identifier = b.identifier
    AND (p.project IS NOT DISTINCT FROM NULLIF(b.project, ''))
    AND p.began < b.period_ends AND p.ended > b.period_starts
),
covered AS (
  SELECT p.node, p.host, p.device, p.project, p.identifier, p.began,
    SUM(CAST(LEAST(p.ended, b.period_ends) AS BIGINT) - CAST(GREATEST(p.began, b.period_starts) AS BIGINT)) / 3.6e9
      AS hours
  FROM piece p
  JOIN bill b ON p.node = b.node AND p.identifier = b.identifier
    AND (p.project IS NOT DISTINCT FROM NULLIF(b.project, ''))
    AND p.began < b.period_ends AND p.ended > b.period_starts
  GROUP BY p.node, p.host, p.device, p.project, p.identifier, p.began
),
beside AS (
  SELECT p.node, p.identifier, p.project, p.device, p.spans, p.unknown_begins, p.unknown_ends,
    (CAST(p.ended AS BIGINT) - CAST(p.began AS BIGINT)) / 3.6e9 - COALESCE(c.hours, 0.0) AS hours
  FROM piece p
  LEFT JOIN covered c ON c.node = p.node AND c.host = p.host AND c.device = p.device AND c.began = p.began
    AND c.identifier = p.identifier AND (c.project IS NOT DISTINCT FROM p.project)
  UNION ALL
  SELECT h.node, NULL, h.project, h.device, h.spans, h.unknown_begins, h.unknown_ends,
    (CAST(h.ended AS BIGINT) - CAST(h.began AS BIGINT)) / 3.6e9 - COALESCE(r.hours, 0.0)
  FROM held h
  LEFT JOIN (
    SELECT node, host, device, project, held_began,
      SUM(CAST(ended AS BIGINT) - CAST(began AS BIGINT)) / 3.6e9 AS hours
    FROM piece
    GROUP BY node, host, device, project, held_began
  ) r ON r.node = h.node AND r.host = h.host AND r.device = h.device AND r.held_began = h.began
    AND (r.project IS NOT DISTINCT FROM h.project)
)
SELECT node, identifier, NULLIF(project, '') AS project, period_starts, period_ends,
  COALESCE(SUM(hours), 0.0) AS metered_hours,
  billed AS billed_hours,
  COALESCE(SUM(hours), 0.0) - billed AS difference_hours,
  (COALESCE(SUM(hours), 0.0) - billed) / NULLIF(billed, 0) AS difference_ratio,
  COUNT(DISTINCT device) AS accelerators,
  COALESCE(SUM(spans), 0) AS spans,
  COALESCE(SUM(unknown_begins), 0) AS unknown_begins,
  COALESCE(SUM(unknown_ends), 0) AS unknown_ends
FROM billing
GROUP BY node, identifier, project, period_starts, period_ends, billed
UNION ALL
SELECT node, identifier, project, NULL, NULL, SUM(hours), NULL, NULL, NULL,
  COUNT(DISTINCT device), SUM(spans), SUM(unknown_begins), SUM(unknown_ends)
FROM beside
-- A millionth of an hour is what is left of rounding.
WHERE hours > 1e-6
GROUP BY node, identifier, project
ORDER BY node, identifier, project, period_starts

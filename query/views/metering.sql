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
spans = "Allocations behind the measure, as `allocation_span` tells them: all of the times that lie in it, also in part."
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
registered AS (
  SELECT node, host, device, identifier, valid_from, valid_to FROM registration WHERE identifier IS NOT NULL
),
bill AS (
  SELECT node, identifier, NULLIF(project, '') AS project, period_starts, period_ends, SUM(accelerator_hours) AS billed
  FROM billed
  WHERE period_starts >= COALESCE($from, now() - INTERVAL '62 days') AND period_ends <= COALESCE($to, now())
  GROUP BY node, identifier, NULLIF(project, ''), period_starts, period_ends
),
-- What was held is cut by registrations, and those pieces by bills, in one go: allocations are many.
piece AS (
  SELECT h.node, h.host, h.device, h.project, h.spans, h.unknown_begins, h.unknown_ends, h.began, h.ended,
    r.identifier,
    -- LEAST and GREATEST pass over NULL, so that what is not there must be asked for.
    CASE WHEN r.identifier IS NOT NULL THEN GREATEST(h.began, r.valid_from) END AS piece_began,
    CASE WHEN r.identifier IS NOT NULL THEN LEAST(h.ended, COALESCE(r.valid_to, h.ended)) END AS piece_ended
  FROM held h
  LEFT JOIN own ON own.node = h.node AND own.host = h.host AND own.device = h.device
  LEFT JOIN registered r ON r.node = h.node AND r.host = h.host AND r.device = COALESCE(own.device, '')
    AND r.valid_from < h.ended AND (r.valid_to IS NULL OR r.valid_to > h.began)
),
cut AS (
  SELECT p.*, b.period_starts, b.period_ends, b.billed,
    (CAST(p.ended AS BIGINT) - CAST(p.began AS BIGINT)) / 3.6e9 AS held_hours,
    (CAST(p.piece_ended AS BIGINT) - CAST(p.piece_began AS BIGINT)) / 3.6e9 AS piece_hours,
    CASE WHEN b.period_starts IS NOT NULL THEN
      (CAST(LEAST(p.piece_ended, b.period_ends) AS BIGINT) - CAST(GREATEST(p.piece_began, b.period_starts) AS BIGINT))
        / 3.6e9
    END AS bill_hours
  FROM piece p
  LEFT JOIN bill b ON b.node = p.node AND b.identifier = p.identifier
    AND COALESCE(b.project, '') = COALESCE(p.project, '')
    AND p.piece_began < b.period_ends AND p.piece_ended > b.period_starts
),
numbered AS (
  SELECT *,
    SUM(bill_hours) OVER (PARTITION BY node, host, device, project, began, identifier, piece_began) AS covered_hours,
    ROW_NUMBER() OVER (
      PARTITION BY node, host, device, project, began, identifier, piece_began ORDER BY period_starts
    ) AS number_of_piece,
    ROW_NUMBER() OVER (PARTITION BY node, host, device, project, began ORDER BY piece_began, period_starts)
      AS number_of_held
  FROM cut
),
summed AS (
  SELECT *, SUM(CASE WHEN number_of_piece = 1 THEN piece_hours END) OVER (
    PARTITION BY node, host, device, project, began
  ) AS registered_hours
  FROM numbered
),
line AS (
  SELECT s.node, s.host, s.device, s.project, s.began, s.spans, s.unknown_begins, s.unknown_ends,
    CASE WHEN part.part <> 'unregistered' THEN s.identifier END AS identifier,
    CASE WHEN part.part = 'bill' THEN s.period_starts END AS period_starts,
    CASE WHEN part.part = 'bill' THEN s.period_ends END AS period_ends,
    CASE WHEN part.part = 'bill' THEN s.billed END AS billed,
    CASE part.part
      WHEN 'bill' THEN s.bill_hours
      WHEN 'beside' THEN s.piece_hours - COALESCE(s.covered_hours, 0.0)
      ELSE s.held_hours - COALESCE(s.registered_hours, 0.0)
    END AS hours
  FROM summed s
  CROSS JOIN (SELECT column1 AS part FROM (VALUES ('bill'), ('beside'), ('unregistered'))) part
  -- A millionth of an hour is what is left of rounding.
  WHERE CASE part.part
    WHEN 'bill' THEN s.period_starts IS NOT NULL
    WHEN 'beside' THEN s.number_of_piece = 1 AND s.piece_hours - COALESCE(s.covered_hours, 0.0) > 1e-6
    ELSE s.number_of_held = 1 AND s.held_hours - COALESCE(s.registered_hours, 0.0) > 1e-6
  END
  UNION ALL
  -- Bills for which nothing was held.
  SELECT node, NULL, NULL, project, NULL, 0, 0, 0, identifier, period_starts, period_ends, billed, NULL FROM bill
),
-- What stood under several registrations of one identifier was held by the same allocations.
whole AS (
  SELECT node, device, project, identifier, period_starts, period_ends, MAX(billed) AS billed, SUM(hours) AS hours,
    MAX(spans) AS spans, MAX(unknown_begins) AS unknown_begins, MAX(unknown_ends) AS unknown_ends
  FROM line
  GROUP BY node, host, device, project, began, identifier, period_starts, period_ends
)
SELECT node, identifier, project, period_starts, period_ends,
  COALESCE(SUM(hours), 0.0) AS metered_hours,
  MAX(billed) AS billed_hours,
  COALESCE(SUM(hours), 0.0) - MAX(billed) AS difference_hours,
  (COALESCE(SUM(hours), 0.0) - MAX(billed)) / NULLIF(MAX(billed), 0) AS difference_ratio,
  COUNT(DISTINCT device) AS accelerators,
  SUM(spans) AS spans,
  SUM(unknown_begins) AS unknown_begins,
  SUM(unknown_ends) AS unknown_ends
FROM whole
GROUP BY node, identifier, project, period_starts, period_ends
ORDER BY node, identifier, project, period_starts

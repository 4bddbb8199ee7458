/*
title = "Weeks until a pool is full"
question = "When will all accelerators of a pool be held? One row for each node, vendor and model: a straight line by least squares through the share that was held, day by day, and where it reaches 1. Whole days only. The interval of 95 % is Fieller's: where the band of the line reaches 1. It speaks of the line, not of what nobody expects; with fewer than five days there is none. As fresh as `accelerator_1h` and `allocation`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the days looked at; 28 days before today if it is left out." }
to = { type = "timestamp", optional = true, help = "End of them, exclusive; the begin of today if it is left out." }
[columns]
node = "Node."
vendor = "Vendor."
model = "Model."
days = "Days that have a share."
accelerators = "Accelerators in service on the last of them, by the hours seen."
share_mean = "Mean share that was held."
share_now = "Share by the line at the end of the days."
share_per_week = "How much the line grows in a week; NULL with fewer than two days."
fit_r2 = "Part of the days' differences that the line explains; NULL where there are none."
weeks = "Weeks from the end of the days until the line reaches 1; 0 when it has, NULL when it does not rise."
weeks_low = "Earliest, at 95 %; NULL where even the upper edge does not reach 1."
weeks_high = "Latest, at 95 %; NULL where the line may as well not rise, that is never."
*/
WITH seen AS (
  SELECT node, host, device, vendor, model, date_bin(INTERVAL '1 day', ts) AS day, SUM(observed_ratio) AS hours
  FROM service_hour
  WHERE ts >= date_bin(INTERVAL '1 day', COALESCE($from, now() - INTERVAL '28 days'))
    AND ts < date_bin(INTERVAL '1 day', COALESCE($to, now()))
  GROUP BY node, host, device, vendor, model, date_bin(INTERVAL '1 day', ts)
),
held AS (
  SELECT seen.node, seen.host, seen.device, seen.day,
    SUM(CAST(LEAST(s.ended, seen.day + INTERVAL '1 day') AS BIGINT) - CAST(GREATEST(s.began, seen.day) AS BIGINT))
      / 3.6e9 AS hours
  FROM seen
  JOIN held_span(date_bin(INTERVAL '1 day', COALESCE($from, now() - INTERVAL '28 days'))) s ON s.node = seen.node AND s.host = seen.host AND s.device = seen.device
    AND s.began < seen.day + INTERVAL '1 day' AND s.ended > seen.day
  GROUP BY seen.node, seen.host, seen.device, seen.day
),
share AS (
  SELECT seen.node, seen.vendor, seen.model, seen.day, SUM(seen.hours) / 24.0 AS accelerators,
    SUM(LEAST(seen.hours, COALESCE(held.hours, 0.0))) / NULLIF(SUM(seen.hours), 0) AS share,
    -- In weeks, the middle of the day, 0 at the end of the time looked at.
    (CAST(seen.day AS BIGINT) + 43.2e9 - CAST(date_bin(INTERVAL '1 day', COALESCE($to, now())) AS BIGINT)) / 604.8e9
      AS week
  FROM seen
  LEFT JOIN held ON held.node = seen.node AND held.host = seen.host AND held.device = seen.device
    AND held.day = seen.day
  GROUP BY seen.node, seen.vendor, seen.model, seen.day
),
line AS (
  SELECT node, vendor, model,
    COUNT(share) AS n,
    last(accelerators, day) AS accelerators,
    AVG(share) AS y,
    AVG(CASE WHEN share IS NOT NULL THEN week END) AS x,
    regr_sxx(share, week) AS sxx, regr_syy(share, week) AS syy, regr_sxy(share, week) AS sxy
  FROM share
  GROUP BY node, vendor, model
),
slope AS (
  SELECT *, sxy / NULLIF(sxx, 0) AS b, CAST(n AS DOUBLE) - 2.0 AS df,
    -- What is left of the differences beside the line; never below zero, whatever rounding says.
    GREATEST(syy - sxy * sxy / NULLIF(sxx, 0), 0.0) AS rest
  FROM line
),
-- Student's t for 95 %, by the expansion of Cornish and Fisher: right to 0.3 % from three degrees of freedom on.
spread AS (
  SELECT *, 1.0 - y AS d,
    POWER(1.959963984540054 + 2.37227123 / df + 2.82250 / POWER(df, 2) + 2.55585 / POWER(df, 3)
      + 1.58953 / POWER(df, 4), 2) * rest / df AS v
  FROM (SELECT node, vendor, model, n, accelerators, y, x, sxx, syy, sxy, b, rest,
    CASE WHEN df >= 3.0 THEN df END AS df FROM slope)
),
fieller AS (
  SELECT *, b * b - v / sxx AS a, d * d - v / n AS c,
    v * (b * b / n + d * d / sxx - v / (n * sxx)) AS discriminant
  FROM spread
)
SELECT node, vendor, model, n AS days, accelerators,
  y AS share_mean,
  CASE WHEN b IS NOT NULL THEN LEAST(1.0, GREATEST(0.0, y - b * x)) END AS share_now,
  b AS share_per_week,
  sxy * sxy / NULLIF(sxx * syy, 0) AS fit_r2,
  CASE WHEN y - b * x >= 1.0 THEN 0.0 WHEN b > 0.0 THEN x + d / b END AS weeks,
  CASE
    -- The band reaches 1 already.
    WHEN y - b * x + SQRT(v * (1.0 / n + x * x / sxx)) >= 1.0 THEN 0.0
    WHEN discriminant < 0.0 THEN NULL
    WHEN a > 0.0 AND b > 0.0 THEN GREATEST(0.0, x + (b * d - SQRT(discriminant)) / a)
    WHEN a < 0.0 THEN GREATEST(0.0, x + (b * d - SQRT(discriminant)) / a)
  END AS weeks_low,
  CASE WHEN discriminant >= 0.0 AND a > 0.0 AND b > 0.0 THEN GREATEST(0.0, x + (b * d + SQRT(discriminant)) / a)
  END AS weeks_high
FROM fieller
ORDER BY weeks NULLS LAST, node, vendor, model

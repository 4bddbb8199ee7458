/*
title = "Failures of accelerators"
question = "How often do accelerators fail, by model, driver and kind of failure? Failures per 1,000 accelerator-days, with the days behind the rate and its 95 % interval. One row of the kind `all` for each vendor, model and driver, failures or none, and one for each kind and code that came. What counts is in `failure_code`. The library and the kernel may both tell of one failure, and one failure of several codes: what follows within `fold_seconds` is part of it, in rows of a code by code, in rows `all` whatever its code. Failures in announced maintenance are left out. As fresh as `accelerator_1h`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 30 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
fold_seconds = { value = 300.0, help = "Events of one device no further apart than this are one failure.", unit = "seconds" }
[columns]
vendor = "Vendor of the accelerators."
model = "Model; NULL where the failure is of a device that never reported."
driver_version = "Driver in the hour of the failure, or of the days counted."
kind = "`fault` (a code), `lost` (the card is gone), or `all`."
code = "The vendor's number (XID); NULL for `all`, `lost` and faults without one."
class = "What has failed, by `failure_code`: `unlisted` for a code nobody has judged, NULL for `all` and `lost`."
failures = "How many there were."
accelerators = "Accelerators that were seen."
accelerator_days = "Days that they were seen for, all together: the denominator."
per_1000_days = "Failures per 1,000 accelerator-days; NULL without days."
low = "Lower end of the rate's 95 % interval (Poisson: exact below 10, then by Byar's approximation)."
high = "Upper end of it; above zero also where there was no failure."
*/
WITH hour AS (
  SELECT device, vendor, model, driver_version,
    COALESCE(LEAST(1.0, CAST(samples AS DOUBLE) / NULLIF(expected, 0)), 1.0) AS observed
  FROM accelerator_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '30 days') AND ts < COALESCE($to, now()) AND parent IS NULL
),
fleet AS (
  SELECT vendor, model, driver_version, COUNT(DISTINCT device) AS accelerators, SUM(observed) / 24.0 AS days
  FROM hour
  GROUP BY vendor, model, driver_version
),
failure AS (
  SELECT * FROM accelerator_failure(COALESCE($from, now() - INTERVAL '30 days'), COALESCE($to, now()), $fold_seconds)
),
line AS (
  SELECT vendor, model, driver_version, 'all' AS kind, CAST(NULL AS BIGINT) AS code, CAST(NULL AS VARCHAR) AS class,
    0 AS failures
  FROM fleet
  UNION ALL
  SELECT vendor, model, driver_version, 'all', NULL, NULL, 1 FROM failure WHERE is_first
  UNION ALL
  SELECT vendor, model, driver_version, kind, code, class, 1 FROM failure WHERE is_first_of_code
),
counted AS (
  SELECT vendor, model, driver_version, kind, code, class, SUM(failures) AS failures
  FROM line
  GROUP BY vendor, model, driver_version, kind, code, class
)
SELECT c.vendor, c.model, c.driver_version, c.kind, c.code, c.class, c.failures,
  f.accelerators, f.days AS accelerator_days,
  1000.0 * c.failures / NULLIF(f.days, 0) AS per_1000_days,
  1000.0 * COALESCE(p.low, c.failures
    * POWER(1.0 - 1.0 / (9.0 * c.failures) - 1.959963984540054 / (3.0 * SQRT(c.failures)), 3)) / NULLIF(f.days, 0) AS low,
  1000.0 * COALESCE(p.high, (c.failures + 1)
    * POWER(1.0 - 1.0 / (9.0 * (c.failures + 1)) + 1.959963984540054 / (3.0 * SQRT(c.failures + 1)), 3))
    / NULLIF(f.days, 0) AS high
FROM counted c
LEFT JOIN fleet f ON (f.vendor IS NOT DISTINCT FROM c.vendor) AND (f.model IS NOT DISTINCT FROM c.model)
  AND (f.driver_version IS NOT DISTINCT FROM c.driver_version)
LEFT JOIN poisson_interval p ON p.count = c.failures
ORDER BY c.vendor, c.model, c.driver_version, c.kind = 'all' DESC, c.failures DESC, c.kind, c.code

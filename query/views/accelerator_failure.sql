/*
title = "Failures, one by one"
question = "When did which accelerator fail, and of what? One row for each event that counts by `failure_code`, with the model and driver of the last hour before it in which the device reported (or of the first after it). Two marks fold what belongs together: the library and the kernel may both tell of one failure, and one failure comes under several codes. Events in announced maintenance are left out, as are those of the machine itself and partitions that were taken away. As fresh as `accelerator_event`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; 30 days ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
fold_seconds = { value = 300.0, help = "Events of one device no further apart than this are one failure.", unit = "seconds" }
[columns]
at = "When it happened."
node = "Node."
host = "Host."
device = "The accelerator, a whole card; NULL where the event names none that is known."
vendor = "Vendor."
model = "Model; NULL where the device never reported."
driver_version = "Driver at that time."
kind = "`fault` (a code) or `lost` (the card is gone)."
code = "The vendor's number (XID); NULL for `lost` and faults without one."
class = "What has failed, by `failure_code`; `unlisted` for a code nobody has judged, NULL without a code."
is_first_of_code = "Whether no event of this device, kind and code came shortly before."
is_first = "Whether no event of this device came shortly before, of whatever code."
*/
WITH hour AS (
  SELECT node, host, device, ts, model, driver_version, pci_bdf, parent
  FROM accelerator_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '30 days') AND ts < COALESCE($to, now())
),
card AS (
  SELECT node, host, device, last(pci_bdf, ts) AS pci_bdf, last(parent, ts) AS parent
  FROM hour
  GROUP BY node, host, device
),
told AS (
  SELECT e.node, e.host, e.vendor, e.kind, e.code, COALESCE(e.at, e.ts) AS at, e.pci_bdf,
    COALESCE(named.parent, named.device, placed.device, e.device) AS device,
    CASE WHEN e.kind = 'fault' AND e.code IS NOT NULL THEN COALESCE(f.class, 'unlisted') END AS class
  FROM accelerator_event e
  LEFT JOIN failure_code f ON f.vendor = e.vendor AND f.code = e.code AND e.kind = 'fault'
  LEFT JOIN card named ON named.node = e.node AND named.host = e.host AND named.device = e.device
  LEFT JOIN card placed ON placed.node = e.node AND placed.host = e.host AND placed.pci_bdf = e.pci_bdf
    AND placed.parent IS NULL AND named.device IS NULL
  WHERE e.ts >= COALESCE($from, now() - INTERVAL '30 days') AND e.ts < COALESCE($to, now())
    AND e.kind IN ('fault', 'lost')
    AND e.vendor <> 'host'
    AND COALESCE(f.counts, true)
    -- A partition that is gone was taken away by somebody.
    AND NOT (e.kind = 'lost' AND named.parent IS NOT NULL)
    AND NOT EXISTS (
      SELECT 1 FROM maintenance m
      WHERE m.node = e.node AND (m.host = '' OR m.host = e.host)
        AND (m.device IS NULL OR m.device = e.device) AND e.ts >= m.starts AND e.ts < m.ends
    )
),
failure AS (
  SELECT *, ROW_NUMBER() OVER (ORDER BY at) AS id,
    LAG(at) OVER (PARTITION BY node, host, device, pci_or_device, kind, code ORDER BY at) AS before_of_code,
    LAG(at) OVER (PARTITION BY node, host, device, pci_or_device ORDER BY at) AS before_of_any
  FROM (SELECT *, CASE WHEN device IS NULL THEN pci_bdf END AS pci_or_device FROM told)
),
-- The model and the driver of the last hour before the failure, or of the first after it.
placed AS (
  SELECT failure.at, failure.node, failure.host, failure.device, failure.vendor, h.model, h.driver_version, failure.kind, failure.code, failure.class,
    (failure.before_of_code IS NULL OR CAST(failure.at AS BIGINT) - CAST(failure.before_of_code AS BIGINT) > $fold_seconds * 1e6) AS is_first_of_code,
    (failure.before_of_any IS NULL OR CAST(failure.at AS BIGINT) - CAST(failure.before_of_any AS BIGINT) > $fold_seconds * 1e6) AS is_first,
    ROW_NUMBER() OVER (
      PARTITION BY failure.id
      ORDER BY h.ts > failure.at, ABS(CAST(h.ts AS BIGINT) - CAST(failure.at AS BIGINT))
    ) AS choice
  FROM failure
  LEFT JOIN hour h ON h.node = failure.node AND h.host = failure.host AND h.device = failure.device
)
SELECT at, node, host, device, vendor, model, driver_version, kind, code, class, is_first_of_code, is_first
FROM placed
WHERE choice = 1
ORDER BY at, node, host, device, kind, code

/*
title = "Accelerators likely to fail"
question = "Which accelerators are likely to fail, and why? All that reported in the last seven days, the worst first. The score is the sum of the points beside it, at most 115; a sign that a vendor does not tell has NULL for points and adds nothing, and `signs_known` says how many of the seven were told. The growth of counters is of seven days and as fresh as `accelerator_1h`; states are of the last two minutes, NULL for a device that is silent."
[columns]
place = "Place in the list, from 1."
node = "Node."
host = "Host."
device = "The accelerator."
vendor = "Vendor."
model = "Model."
score = "Sum of the points; NULL where no sign is known."
signs_known = "Signs that are known, of seven."
verdict_points = "50 where a row could not be remapped or the vendor's own check says `failed`, 10 where it says `warning` or the driver asks for a reset."
pending_points = "20 where rows or pages wait to be replaced at the next reset."
ecc_uncorrected_points = "10 for each uncorrected memory error, at most 20."
ecc_corrected_points = "1 for each 100 corrected memory errors, at most 5; twice that where the last day has more than twice the mean of the days before."
pages_points = "2 for each page or row replaced, at most 10."
link_points = "1 for each 100 damaged pieces on links, at most 2; and 3 where the last day has more than twice the mean of the days before."
pcie_points = "1 for each 1,000 packets sent again over PCIe, at most 5; counted while any were seen."
ecc_uncorrected = "Uncorrected memory errors in seven days."
ecc_corrected = "Corrected memory errors in seven days."
ecc_corrected_last_day = "Of them, in the last day."
ecc_corrected_day_before = "Mean of a day in the six days before; NULL when none was seen."
replaced = "Pages and rows replaced in seven days."
link_crc_errors = "Pieces damaged on links in seven days."
link_crc_last_day = "Of them, in the last day."
link_crc_day_before = "Mean of a day in the six days before; NULL when none was seen."
pcie_replays = "Packets sent again over PCIe in seven days."
remapped_rows_failed = "Whether a row could not be replaced."
pending = "Whether rows or pages wait to be replaced."
health = "What the vendor's own check says."
recovery_action = "What the driver says would bring it back."
last_hour = "Newest hour in which it reported."
*/
WITH hour AS (
  SELECT node, host, device, vendor, model, ts,
    ts >= now() - INTERVAL '1 day' AS is_last_day,
    COALESCE(ecc_uncorrected_aggregate_increase, ecc_uncorrected_volatile_increase) AS ecc_uncorrected,
    COALESCE(ecc_corrected_aggregate_increase, ecc_corrected_volatile_increase) AS ecc_corrected,
    CASE WHEN COALESCE(remapped_rows_corrected_increase, remapped_rows_uncorrected_increase,
        retired_pages_corrected_increase, retired_pages_uncorrected_increase, retired_pages_increase) IS NOT NULL THEN
      COALESCE(remapped_rows_corrected_increase, 0) + COALESCE(remapped_rows_uncorrected_increase, 0)
      + COALESCE(retired_pages_corrected_increase, 0) + COALESCE(retired_pages_uncorrected_increase, 0)
      + COALESCE(retired_pages_increase, 0)
    END AS replaced,
    link_crc_errors_increase AS link_crc,
    pcie_replays_increase AS pcie_replays
  FROM accelerator_1h
  WHERE ts >= now() - INTERVAL '7 days' AND parent IS NULL
),
grown AS (
  SELECT node, host, device, last(vendor, ts) AS vendor, last(model, ts) AS model, MAX(ts) AS last_hour,
    COUNT(DISTINCT CASE WHEN NOT is_last_day THEN date_bin(INTERVAL '1 day', ts) END) AS days_before,
    SUM(ecc_uncorrected) AS ecc_uncorrected,
    SUM(ecc_corrected) AS ecc_corrected,
    SUM(ecc_corrected) FILTER (WHERE is_last_day) AS ecc_corrected_last_day,
    SUM(ecc_corrected) FILTER (WHERE NOT is_last_day) * 24.0 / COUNT(ecc_corrected) FILTER (WHERE NOT is_last_day) AS ecc_corrected_day_before,
    SUM(replaced) AS replaced,
    SUM(link_crc) AS link_crc,
    SUM(link_crc) FILTER (WHERE is_last_day) AS link_crc_last_day,
    SUM(link_crc) FILTER (WHERE NOT is_last_day) * 24.0 / COUNT(link_crc) FILTER (WHERE NOT is_last_day) AS link_crc_day_before,
    SUM(pcie_replays) AS pcie_replays
  FROM hour
  GROUP BY node, host, device
),
state AS (
  SELECT node, host, device,
    last(remapped_rows_failed, ts) AS remapped_rows_failed,
    last(remapped_rows_pending, ts) AS remapped_rows_pending,
    last(retired_pages_pending, ts) AS retired_pages_pending,
    last(health, ts) AS health,
    last(recovery_action, ts) AS recovery_action
  FROM accelerator
  WHERE ts >= now() - INTERVAL '2 minutes' AND parent IS NULL
  GROUP BY node, host, device
),
sign AS (
  SELECT g.*, s.remapped_rows_failed, s.health, s.recovery_action,
    COALESCE(s.remapped_rows_pending OR s.retired_pages_pending, s.remapped_rows_pending, s.retired_pages_pending)
      AS pending
  FROM grown g
  LEFT JOIN state s ON s.node = g.node AND s.host = g.host AND s.device = g.device
),
points AS (
  SELECT *,
    CASE
      WHEN remapped_rows_failed OR health = 'failed' THEN 50.0
      WHEN health = 'warning' OR recovery_action <> 'none' THEN 10.0
      WHEN COALESCE(CAST(remapped_rows_failed AS VARCHAR), health, recovery_action) IS NOT NULL THEN 0.0
    END AS verdict_points,
    CASE WHEN pending THEN 20.0 WHEN NOT pending THEN 0.0 END AS pending_points,
    CASE WHEN ecc_uncorrected IS NOT NULL THEN LEAST(20.0, 10.0 * ecc_uncorrected) END AS ecc_uncorrected_points,
    CASE WHEN ecc_corrected IS NOT NULL THEN LEAST(5.0, ecc_corrected / 100.0)
      * CASE WHEN ecc_corrected_last_day > 2.0 * ecc_corrected_day_before THEN 2.0 ELSE 1.0 END
    END AS ecc_corrected_points,
    CASE WHEN replaced IS NOT NULL THEN LEAST(10.0, 2.0 * replaced) END AS pages_points,
    CASE WHEN link_crc IS NOT NULL THEN LEAST(2.0, link_crc / 100.0)
      + CASE WHEN link_crc_last_day > 2.0 * link_crc_day_before THEN 3.0 ELSE 0.0 END
    END AS link_points,
    CASE WHEN pcie_replays IS NOT NULL THEN LEAST(5.0, pcie_replays / 1000.0) END AS pcie_points
  FROM sign
),
scored AS (
  SELECT *,
    CASE WHEN verdict_points IS NULL THEN 0 ELSE 1 END + CASE WHEN pending_points IS NULL THEN 0 ELSE 1 END
      + CASE WHEN ecc_uncorrected_points IS NULL THEN 0 ELSE 1 END
      + CASE WHEN ecc_corrected_points IS NULL THEN 0 ELSE 1 END
      + CASE WHEN pages_points IS NULL THEN 0 ELSE 1 END + CASE WHEN link_points IS NULL THEN 0 ELSE 1 END
      + CASE WHEN pcie_points IS NULL THEN 0 ELSE 1 END AS signs_known,
    COALESCE(verdict_points, 0.0) + COALESCE(pending_points, 0.0) + COALESCE(ecc_uncorrected_points, 0.0)
      + COALESCE(ecc_corrected_points, 0.0) + COALESCE(pages_points, 0.0) + COALESCE(link_points, 0.0)
      + COALESCE(pcie_points, 0.0) AS total
  FROM points
)
SELECT
  CAST(ROW_NUMBER() OVER (
    ORDER BY CASE WHEN signs_known > 0 THEN total END DESC NULLS LAST, node, host, device
  ) AS BIGINT) AS place,
  node, host, device, vendor, model,
  CASE WHEN signs_known > 0 THEN total END AS score, signs_known,
  verdict_points, pending_points, ecc_uncorrected_points, ecc_corrected_points, pages_points, link_points, pcie_points,
  ecc_uncorrected, ecc_corrected, ecc_corrected_last_day, ecc_corrected_day_before, replaced,
  link_crc AS link_crc_errors, link_crc_last_day, link_crc_day_before, pcie_replays,
  remapped_rows_failed, pending, health, recovery_action, last_hour
FROM scored
ORDER BY place

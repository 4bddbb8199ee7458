/*
title = "Names of accelerators"
question = "Which accelerator does somebody mean who names it by UUID, PCI address, device file or number? One row for each name an accelerator has had in the last two minutes."

[columns]
node = "Node of the host."
host = "Host of the accelerator."
alias = "A name."
device = "The accelerator, as in `accelerator.device`; for a partition the whole card."
*/
WITH named AS (
  SELECT node, host, device, last(parent, ts) AS parent, last(pci_bdf, ts) AS pci_bdf,
    last(device_file, ts) AS device_file, last("index", ts) AS "index"
  FROM accelerator
  WHERE ts >= fresh_since()
  GROUP BY node, host, device
),
alias AS (
  SELECT node, host, device AS alias, coalesce(parent, device) AS device FROM named
  UNION ALL
  SELECT node, host, pci_bdf, device FROM named WHERE parent IS NULL
  UNION ALL
  SELECT node, host, device_file, device FROM named WHERE parent IS NULL
  UNION ALL
  SELECT node, host, CAST("index" AS TEXT), device FROM named WHERE parent IS NULL
)
SELECT node, host, alias, min(device) AS device
FROM alias
WHERE alias IS NOT NULL
GROUP BY node, host, alias

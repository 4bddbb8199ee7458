/*
title = "Versions in the fleet"
question = "Which versions run, how much of the fleet has each, who lags, and is it approved? One row for each node, component and version: `driver` and `firmware` of accelerators (hosts that reported accelerators in the last ten minutes), `bios`, `kernel`, `os` and `agent` (hosts that told of themselves in the last two hours). Approved is by the view `approved`: entries of the kind `driver` with the vendor's name (or `kernel`, `os`), of the kind `firmware` with the accelerator's model or with `bios` and the machine's, and of the kind `executable` with the agent's path; NULL where there is no entry, for nobody has said. As fresh as `accelerator` and `host`."
[columns]
node = "Node."
component = "`driver`, `firmware`, `bios`, `kernel`, `os` or `agent`."
name = "Of what: a vendor, a model, the distribution, or the component itself."
version = "The version; NULL where it is not told."
units = "How many run it: accelerators for `driver` and `firmware`, else hosts."
hosts = "On how many hosts."
share_ratio = "Share of the node's units of this component and name."
is_most_common = "Whether more units have it than any other."
is_approved = "Whether it is approved on every host that has it; NULL where nothing is said of this name."
laggards = "Up to five of the hosts that have it, where it is not the most common or not approved."
*/
WITH machine AS (
  SELECT node, host,
    last(product, ts) AS product, last(bios_version, ts) AS bios, last(kernel, ts) AS kernel,
    last(COALESCE(os_id, os_name), ts) AS os_id, last(COALESCE(os_version, os), ts) AS os,
    last(agent_version, ts) AS agent
  FROM host
  WHERE ts >= now() - INTERVAL '2 hours'
  GROUP BY node, host
),
card AS (
  SELECT node, host, device, last(vendor, ts) AS vendor, last(model, ts) AS model,
    last(driver_version, ts) AS driver, last(firmware_version, ts) AS firmware
  FROM accelerator
  WHERE ts >= now() - INTERVAL '10 minutes' AND parent IS NULL
  GROUP BY node, host, device
),
-- One row a host: where cards of one host differ, each version counts apart.
unit AS (
  SELECT node, host, 'driver' AS component, vendor AS name, driver AS version, 'driver' AS kind, COUNT(*) AS units
  FROM card GROUP BY node, host, vendor, driver
  UNION ALL
  SELECT node, host, 'firmware', model, firmware, 'firmware', COUNT(*) FROM card GROUP BY node, host, model, firmware
  UNION ALL
  SELECT node, host, 'bios', product, bios, 'firmware', 1 FROM machine
  UNION ALL
  SELECT node, host, 'kernel', 'kernel', kernel, 'driver', 1 FROM machine
  UNION ALL
  SELECT node, host, 'os', os_id, os, 'driver', 1 FROM machine
  UNION ALL
  SELECT node, host, 'agent', 'agent', agent, 'executable', 1 FROM machine
),
entry AS (
  SELECT node, host, kind, name, value
  FROM approved
  WHERE kind IN ('driver', 'firmware', 'executable') AND valid_from <= now() AND (valid_to IS NULL OR valid_to > now())
),
judged AS (
  SELECT u.node, u.host, u.component, u.name, u.version, u.units,
    BOOL_OR(e.value = u.version OR e.value = '*') AS is_approved
  FROM unit u
  LEFT JOIN entry e ON e.kind = u.kind
    AND e.name = CASE u.component
      WHEN 'os' THEN 'os'
      WHEN 'bios' THEN 'bios ' || u.name
      WHEN 'agent' THEN '/usr/bin/nodescope-agent'
      ELSE u.name
    END
    AND (e.node = '' OR e.node = u.node) AND (e.host = '' OR e.host = u.host)
  GROUP BY u.node, u.host, u.component, u.name, u.version, u.units
),
numbered AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY node, component, name, version ORDER BY host) AS number
  FROM judged
),
version AS (
  SELECT node, component, name, version, SUM(units) AS units, COUNT(*) AS hosts,
    BOOL_AND(is_approved) AS is_approved,
    STRING_AGG(CASE WHEN number <= 5 THEN host END, ', ' ORDER BY number) AS first_hosts
  FROM numbered
  GROUP BY node, component, name, version
),
placed AS (
  SELECT *,
    SUM(units) OVER (PARTITION BY node, component, name) AS fleet,
    RANK() OVER (PARTITION BY node, component, name ORDER BY units DESC) AS place
  FROM version
)
SELECT node, component, name, version, units, hosts,
  CAST(units AS DOUBLE) / NULLIF(fleet, 0) AS share_ratio,
  place = 1 AS is_most_common,
  is_approved,
  CASE WHEN place > 1 OR NOT is_approved THEN first_hosts END AS laggards
FROM placed
ORDER BY node, component, name, units DESC, version

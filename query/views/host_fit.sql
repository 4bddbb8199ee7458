/*
title = "What hosts can take"
question = "Which hosts could take work now, and what stands in the way of the others? One row for each registered host with accelerators, of the last two minutes."

[columns]
node = "Node it is registered with."
host = "The host."
fabric = "The network on which it computes together with others."
state = "`up`, `down` or `unknown`."
is_cordoned = "Whether the registry says anything but `in_service`."
in_maintenance = "Whether it, or its node, is being worked on now."
accelerators = "Accelerators registered on it."
free_accelerators = "Those that are free."
fresh_accelerators = "Those that report."
is_whole = "Whether it is up, in service, and all its accelerators are free."
rdma_ports = "RDMA ports that are not switched off."
rdma_ports_down = "Those that carry no data."
memory_available_ratio = "Main memory that new work could be given, as a share of all; NULL when not known."
has_bad_nic = "Whether an RDMA port is down."
lacks_memory = "Whether less than a tenth of main memory is left."
*/
WITH card AS (
  SELECT node, host,
    count(*) AS accelerators,
    count(*) FILTER (WHERE state = 'free') AS free,
    count(*) FILTER (WHERE is_fresh) AS fresh
  FROM accelerator_now
  WHERE is_registered
  GROUP BY node, host
),
port AS (
  SELECT node, host, device, port, last(up, ts) AS up, last(physical_state, ts) AS physical_state
  FROM rdma
  WHERE ts >= fresh_since() AND ts <= now() + INTERVAL '1 minute'
  GROUP BY node, host, device, port
),
ports AS (
  SELECT node, host, count(*) AS ports, count(*) FILTER (WHERE NOT up) AS down
  FROM port
  WHERE physical_state IS NULL OR physical_state <> 'Disabled'
  GROUP BY node, host
),
main_memory AS (
  SELECT node, host,
    CAST(last(available_bytes, ts) AS DOUBLE PRECISION) / nullif(last(total_bytes, ts), 0) AS available
  FROM memory
  WHERE ts >= fresh_since() AND ts <= now() + INTERVAL '1 minute'
  GROUP BY node, host
)
SELECT h.node, h.host, h.fabric, h.state, h.is_cordoned, h.in_maintenance,
  c.accelerators,
  c.free AS free_accelerators,
  c.fresh AS fresh_accelerators,
  h.state = 'up' AND NOT h.is_cordoned AND NOT h.in_maintenance AND c.free = c.accelerators AS is_whole,
  p.ports AS rdma_ports,
  p.down AS rdma_ports_down,
  m.available AS memory_available_ratio,
  coalesce(p.down > 0, false) AS has_bad_nic,
  coalesce(m.available < 0.1, false) AS lacks_memory
FROM host_now h
JOIN card c ON c.node = h.node AND c.host = h.host
LEFT JOIN ports p ON p.node = h.node AND p.host = h.host
LEFT JOIN main_memory m ON m.node = h.node AND m.host = h.host

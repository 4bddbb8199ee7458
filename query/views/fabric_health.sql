/*
title = "Health of the fabric"
question = "How healthy are the ways between hosts, by port? One row for each host and port of a card: interfaces with hardware (`interface`), ports of RDMA cards (`rdma`), and what the host's TCP sent again (`tcp`, beside the bytes of all its interfaces). Counts grew in the time looked at, resets counted right, and stand beside what they are for each 10^12 bytes, so that busy ports and quiet ones compare. What a card does not count is NULL. As fresh as `interface_1h`, `nic_1h`, `rdma_1h` and `protocol_1h`."
[parameters]
from = { type = "timestamp", optional = true, help = "Begin of the time looked at; a day ago if it is left out." }
to = { type = "timestamp", optional = true, help = "End of it, exclusive; now if it is left out." }
[columns]
node = "Node."
host = "Host."
kind = "`interface`, `rdma` or `tcp`."
port = "Name of the interface; of RDMA device and port; empty for `tcp`."
bytes = "Bytes received and sent."
retransmits = "Packets or segments sent again, or asked for again."
pauses = "Pause frames, received and sent, that stop all traffic."
pfc_pauses = "Pause frames of single priorities (PFC), received and sent, in the last hour looked at: `nic` tells them by priority, and hours keep no maps."
congestion_notifications = "Notifications of congestion (CNP), sent and received."
flaps = "How often the line went down."
crc_errors = "Packets that arrived damaged."
retransmits_per_terabyte = "Retransmits for 10^12 bytes; NULL without traffic."
pauses_per_terabyte = "Pauses for 10^12 bytes."
pfc_pauses_per_terabyte = "PFC pauses for 10^12 bytes of that hour."
congestion_notifications_per_terabyte = "Notifications for 10^12 bytes."
flaps_per_terabyte = "Flaps for 10^12 bytes."
crc_errors_per_terabyte = "Damaged packets for 10^12 bytes."
*/
WITH wire AS (
  SELECT node, host, interface,
    SUM(rx_bytes_increase) + SUM(tx_bytes_increase) AS bytes,
    SUM(rx_crc_errors_increase) AS crc,
    SUM(carrier_down_changes_increase) AS flaps
  FROM interface_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now()) AND driver IS NOT NULL
  GROUP BY node, host, interface
),
-- Bytes of the last hour, for what only that hour tells.
recent_wire AS (
  SELECT node, host, interface, SUM(rx_bytes_increase) + SUM(tx_bytes_increase) AS bytes
  FROM interface_1m
  WHERE ts >= COALESCE($to, now()) - INTERVAL '1 hour' AND ts < COALESCE($to, now()) AND driver IS NOT NULL
  GROUP BY node, host, interface
),
recent_port AS (
  SELECT node, host, device, port, SUM(rx_bytes_increase) + SUM(tx_bytes_increase) AS bytes
  FROM rdma_1m
  WHERE ts >= COALESCE($to, now()) - INTERVAL '1 hour' AND ts < COALESCE($to, now())
  GROUP BY node, host, device, port
),
pfc AS (
  SELECT node, host, interface, CASE WHEN COALESCE(rx, tx) IS NOT NULL THEN COALESCE(rx, 0.0) + COALESCE(tx, 0.0) END
    AS pfc
  FROM (
    SELECT node, host, interface,
      increase(array_sum(map_values(rx_pfc_frames)), ts) AS rx,
      increase(array_sum(map_values(tx_pfc_frames)), ts) AS tx
    FROM nic
    WHERE ts >= COALESCE($to, now()) - INTERVAL '1 hour' AND ts < COALESCE($to, now())
    GROUP BY node, host, interface
  )
),
card AS (
  SELECT node, host, interface,
    CASE WHEN COALESCE(SUM(rx_pause_frames_increase), SUM(tx_pause_frames_increase)) IS NOT NULL THEN
      COALESCE(SUM(rx_pause_frames_increase), 0.0) + COALESCE(SUM(tx_pause_frames_increase), 0.0)
    END AS pauses,
    SUM(link_down_events_phy_increase) AS flaps,
    SUM(rx_crc_errors_phy_increase) AS crc
  FROM nic_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now())
  GROUP BY node, host, interface
),
port AS (
  SELECT node, host, device, port, last(netdev, ts) AS netdev,
    SUM(rx_bytes_increase) + SUM(tx_bytes_increase) AS bytes,
    CASE WHEN COALESCE(SUM(packet_sequence_errors_increase), SUM(local_ack_timeouts_increase),
        SUM(rnr_nak_retries_increase), SUM(implied_nak_sequence_errors_increase),
        SUM(roce_adaptive_retransmissions_increase)) IS NOT NULL THEN
      COALESCE(SUM(packet_sequence_errors_increase), 0.0) + COALESCE(SUM(local_ack_timeouts_increase), 0.0)
      + COALESCE(SUM(rnr_nak_retries_increase), 0.0) + COALESCE(SUM(implied_nak_sequence_errors_increase), 0.0)
      + COALESCE(SUM(roce_adaptive_retransmissions_increase), 0.0)
    END AS retransmits,
    CASE WHEN COALESCE(SUM(np_cnp_sent_increase), SUM(rp_cnp_handled_increase), SUM(rp_cnp_ignored_increase))
        IS NOT NULL THEN
      COALESCE(SUM(np_cnp_sent_increase), 0.0) + COALESCE(SUM(rp_cnp_handled_increase), 0.0)
      + COALESCE(SUM(rp_cnp_ignored_increase), 0.0)
    END AS notifications,
    SUM(link_downs_increase) AS flaps,
    CASE WHEN COALESCE(SUM(rx_icrc_errors_increase), SUM(symbol_errors_increase)) IS NOT NULL THEN
      COALESCE(SUM(rx_icrc_errors_increase), 0.0) + COALESCE(SUM(symbol_errors_increase), 0.0)
    END AS crc
  FROM rdma_1h
  WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now())
  GROUP BY node, host, device, port
),
line AS (
  SELECT w.node, w.host, 'interface' AS kind, w.interface AS port, w.bytes,
    CAST(NULL AS DOUBLE) AS retransmits, c.pauses, p.pfc, r.bytes AS recent_bytes, CAST(NULL AS DOUBLE) AS notifications,
    COALESCE(w.flaps, c.flaps) AS flaps, COALESCE(w.crc, c.crc) AS crc
  FROM wire w
  LEFT JOIN pfc p ON p.node = w.node AND p.host = w.host AND p.interface = w.interface
  LEFT JOIN recent_wire r ON r.node = w.node AND r.host = w.host AND r.interface = w.interface
  LEFT JOIN card c ON c.node = w.node AND c.host = w.host AND c.interface = w.interface
  UNION ALL
  SELECT p.node, p.host, 'rdma', p.device || '/' || CAST(p.port AS VARCHAR), p.bytes,
    p.retransmits, c.pauses, f.pfc, r.bytes, p.notifications, p.flaps, p.crc
  FROM port p
  LEFT JOIN pfc f ON f.node = p.node AND f.host = p.host AND f.interface = p.netdev
  LEFT JOIN recent_port r ON r.node = p.node AND r.host = p.host AND r.device = p.device AND r.port = p.port
  LEFT JOIN card c ON c.node = p.node AND c.host = p.host AND c.interface = p.netdev
  UNION ALL
  SELECT t.node, t.host, 'tcp', '', w.bytes, t.retransmits, NULL, NULL, NULL, NULL, NULL, NULL
  FROM (
    SELECT node, host, SUM(tcp_retransmitted_segments_increase) AS retransmits
    FROM protocol_1h
    WHERE ts >= COALESCE($from, now() - INTERVAL '1 day') AND ts < COALESCE($to, now())
    GROUP BY node, host
  ) t
  LEFT JOIN (SELECT node, host, SUM(bytes) AS bytes FROM wire GROUP BY node, host) w
    ON w.node = t.node AND w.host = t.host
)
SELECT node, host, kind, port, bytes, retransmits, pauses, pfc AS pfc_pauses, notifications AS congestion_notifications, flaps,
  crc AS crc_errors,
  1e12 * retransmits / NULLIF(bytes, 0) AS retransmits_per_terabyte,
  1e12 * pauses / NULLIF(bytes, 0) AS pauses_per_terabyte,
  1e12 * pfc / NULLIF(recent_bytes, 0) AS pfc_pauses_per_terabyte,
  1e12 * notifications / NULLIF(bytes, 0) AS congestion_notifications_per_terabyte,
  1e12 * flaps / NULLIF(bytes, 0) AS flaps_per_terabyte,
  1e12 * crc / NULLIF(bytes, 0) AS crc_errors_per_terabyte
FROM line
ORDER BY node, host, kind, port
